"""Architectures: one file each, registered by name."""

from .architectures import ARCHITECTURES, register_architecture
from .base import SegmentationModel
from .card import Metric, ModelCard
from .dynamic_unet import DynamicUnet
from .storage import pull, push
from .unet import Unet

from_pretrained = SegmentationModel.from_pretrained

__all__ = [
    "ARCHITECTURES",
    "DynamicUnet",
    "Metric",
    "ModelCard",
    "SegmentationModel",
    "Unet",
    "from_pretrained",
    "pull",
    "push",
    "register_architecture",
]
