"""The whole way of a model on one photograph: train, segment what it never saw, save, load."""

from .run import DemoResult, run_demo
from .scene import Scene, coins_scene, read_scene
from .training import segmentation_loss, train

__all__ = [
    "DemoResult",
    "Scene",
    "coins_scene",
    "read_scene",
    "run_demo",
    "segmentation_loss",
    "train",
]
