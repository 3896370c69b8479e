"""Measurements: each script writes a record with its environment into ``results/``."""
