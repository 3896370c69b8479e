"""The whole way of a model on one photograph: train, segment what it never saw, save, load."""

from .run import DemoResult, run_demo
from .scene import Scene, coins_scene, read_scene

__all__ = [
    "DemoResult",
    "Scene",
    "coins_scene",
    "read_scene",
    "run_demo",
]
