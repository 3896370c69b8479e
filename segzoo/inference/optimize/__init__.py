"""A model made fast for inference: traced, rewritten by exact algebra, autotuned, verified."""
