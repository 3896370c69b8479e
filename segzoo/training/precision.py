"""What a device computes in: asked of the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from .._compat import cpu_multiplies_bfloat16


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in units of its own, which is faster than float32."""
    if device.type == "cpu":
        return cpu_multiplies_bfloat16()
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False


def chosen(precision: str, device: torch.device) -> str:
    """``auto`` made one of the others."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_bfloat16(device) else "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Convolutions and matrix products in that precision while it is active."""
    if precision == "float32":
        return nullcontext()
    # The cache would keep a copy of every weight between two forwards of one block.
    return torch.autocast(device.type, torch.bfloat16)
