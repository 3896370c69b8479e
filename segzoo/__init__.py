"""Segmentation models on every timm backbone.

>>> import torch, segzoo
>>> model = segzoo.Unet("resnet34", classes=3)
>>> model(torch.rand(1, 3, 250, 317)).shape
torch.Size([1, 3, 250, 317])
"""

from . import errors
from ._version import __version__
from .config import ModelConfig
from .encoders import (
    Encoder,
    EncoderInfo,
    SizeRule,
    create_encoder,
    encoder_info,
    list_encoders,
    register_encoder,
)
from .fastai import fastai_splitter
from .features import FeatureSpec
from .models import (
    ARCHITECTURES,
    DynamicUnet,
    SegmentationModel,
    Unet,
    from_pretrained,
    register_architecture,
)
from .preprocessing import Normalization

__all__ = [
    "ARCHITECTURES",
    "DynamicUnet",
    "Encoder",
    "EncoderInfo",
    "FeatureSpec",
    "ModelConfig",
    "Normalization",
    "SegmentationModel",
    "SizeRule",
    "Unet",
    "__version__",
    "create_encoder",
    "encoder_info",
    "errors",
    "fastai_splitter",
    "from_pretrained",
    "list_encoders",
    "register_architecture",
    "register_encoder",
]
