"""Encoders: backbones by name, and what can be asked of them."""

from .catalog import (
    ENCODERS,
    EncoderInfo,
    create_encoder,
    encoder_info,
    is_known,
    list_encoders,
    register_encoder,
)
from .encoder import Encoder
from .probe import build_on_meta
from .sizes import SizeRule

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderInfo",
    "SizeRule",
    "build_on_meta",
    "create_encoder",
    "encoder_info",
    "is_known",
    "list_encoders",
    "register_encoder",
]
