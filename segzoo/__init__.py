"""Segmentation models on every timm backbone.

>>> import torch, segzoo
>>> model = segzoo.Unet("resnet34", classes=3)
>>> model(torch.rand(1, 3, 250, 317)).shape
torch.Size([1, 3, 250, 317])
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import errors
from ._version import __version__

if TYPE_CHECKING:
    from . import convert
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
    from .inference import OptimizedModel, export, optimize
    from .models import (
        ARCHITECTURES,
        DynamicUnet,
        Metric,
        ModelCard,
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
    "Metric",
    "ModelCard",
    "ModelConfig",
    "Normalization",
    "OptimizedModel",
    "SegmentationModel",
    "SizeRule",
    "Unet",
    "__version__",
    "convert",
    "create_encoder",
    "encoder_info",
    "errors",
    "export",
    "fastai_splitter",
    "from_pretrained",
    "list_encoders",
    "optimize",
    "register_architecture",
    "register_encoder",
]

#: Where the names above live; imported when the first of them is asked for, because torch takes
#: seconds and `segzoo --help` should not.
_HOMES = ("config", "encoders", "fastai", "features", "models", "preprocessing", "inference")


def __getattr__(name: str) -> object:
    if name == "convert":
        return import_module(".convert", __name__)
    if name in __all__:
        for home in _HOMES:
            found = vars(import_module(f".{home}", __name__))
            if name in found:
                globals()[name] = found[name]
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
