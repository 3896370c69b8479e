"""Models for inference only: optimised, and exported."""

from .optimizing import OptimizedModel, PassReport, optimize

__all__ = ["OptimizedModel", "PassReport", "optimize"]
