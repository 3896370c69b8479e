"""Models for inference only: optimised, and exported."""
