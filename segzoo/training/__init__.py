"""Training: what a loop of any library needs of a model."""
