"""Models for inference only: optimised, and exported."""

from .exporting import export
from .optimizing import OptimizedModel, PassReport, optimize

__all__ = ["OptimizedModel", "PassReport", "export", "optimize"]
