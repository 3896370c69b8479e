"""Architectures: one file each, registered by name."""

from .architectures import ARCHITECTURES, register_architecture
from .base import SegmentationModel
from .dynamic_unet import DynamicUnet
from .unet import Unet

from_pretrained = SegmentationModel.from_pretrained

__all__ = [
    "ARCHITECTURES",
    "DynamicUnet",
    "SegmentationModel",
    "Unet",
    "from_pretrained",
    "register_architecture",
]
