"""Encoders: backbones by name, and what can be asked of them."""

from .catalog import EncoderInfo, create_encoder, encoder_info, is_known, register_encoder
from .encoder import Encoder
from .listing import list_encoders
from .names import ENCODERS
from .probe import build_on_meta
from .sizes import SIZE_KINDS, SizeRule

__all__ = [
    "ENCODERS",
    "SIZE_KINDS",
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
