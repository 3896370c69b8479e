"""Whether a kernel can pay: where memory is what takes the time.

The kernels save reading and writing; their products of matrices are no better than a library's, and
with a tile of 32 channels worse. So they are for convolutions that a card computes faster than it
moves their maps. Those are known from the channels alone, and each that is tried costs seconds of
compiling.
"""

from __future__ import annotations

import torch

from .operators import tf32_allowed
from .packing import SMALLEST

#: FLOPs in the time that one value is moved in: an H100 has 990 TFLOP/s in 16 bits and moves
#: 3.35 TB/s, which is 1.7e12 values. In TF32 it is half of both. Cards with less arithmetic for
#: their memory have fewer; there the clock decides.
FLOPS_A_VALUE = 590


def pays(small: int, full: int, outs: int, dtype: torch.dtype) -> bool:
    """Whether a 3x3 convolution may take longer to move than to compute.

    Args:
        small: Channels of a map that is doubled, 0 for none.
        full: Channels of a map of the result's resolution, 0 for none.
        outs: Channels of the result.
        dtype: Of all of them; exact float32, which tensor cores do not compute, never pays.

    >>> pays(0, 64, 64, torch.bfloat16), pays(0, 128, 128, torch.bfloat16)
    (True, False)
    """
    if dtype == torch.float32 and not tf32_allowed():
        return False
    flops = 2 * (4 * small + 9 * full) * outs
    return flops <= FLOPS_A_VALUE * (small / 4 + full + outs)


def image_pays(weight: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether a convolution of an image may take longer to move than to compute.

    Args:
        weight: Shape ``(outputs, channels, height, width)``.
        stride: Steps of its window down and across.
        dtype: As of :func:`pays`.

    >>> image_pays((64, 3, 7, 7), (2, 2), torch.bfloat16)
    True
    >>> image_pays((64, 64, 3, 3), (1, 1), torch.bfloat16)  # no image: libraries do that well
    False
    """
    outs, channels, height, width = weight
    if channels >= SMALLEST or (dtype == torch.float32 and not tf32_allowed()):
        return False
    flops = 2 * height * width * channels * outs
    return flops <= FLOPS_A_VALUE * (channels * stride[0] * stride[1] + outs)
