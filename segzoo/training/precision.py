"""What a device computes in: asked of the device."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F

from ..timing import in_turn

#: A convolution and its gradients: channels, and the side of the map.
_PROBE = (128, 24)
#: So much of float32's time they take at most where bfloat16 is worth its rounding.
_WORTH = 0.8


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device trains in bfloat16 in less time than in float32.

    A GPU says so itself. Of a processor its instructions do not tell: with AVX512-BF16 one kind
    takes half of float32's time and another one half as much again
    (``benchmarks/training_precision.py``), so it is timed.
    """
    if device.type == "cpu":
        return _share_of_float32(torch.get_num_threads()) <= _WORTH
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False


def chosen(precision: str, device: torch.device) -> str:
    """``auto`` made one of the others."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Convolutions and matrix products in that precision while it is active."""
    if precision == "float32":
        return nullcontext()
    # The cache would keep a copy of every weight between two forwards of one block.
    return torch.autocast(device.type, torch.bfloat16)


@functools.cache
def _share_of_float32(threads: int) -> float:
    """What bfloat16 takes of float32's time on this processor.

    Measured once a process for each number of threads that torch has, which ``threads`` is.
    """
    cpu = torch.device("cpu")
    channels, side = _PROBE
    image = torch.ones(1, channels, side, side)
    weight = torch.ones(channels, channels, 3, 3)
    image, weight = (
        x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in (image, weight)
    )

    def step(precision: str) -> None:
        with torch.enable_grad(), autocast(precision, cpu):
            out = F.conv2d(image, weight, padding=1)
        torch.autograd.grad(out, (image, weight), torch.ones_like(out))

    calls = {name: functools.partial(step, name) for name in ("bfloat16", "float32")}
    timings = in_turn(calls, rounds=5, warmup=2, own_time=True)
    return timings["bfloat16"].undisturbed / timings["float32"].undisturbed
