"""Weights as the kernels read them: of 3x3 convolutions a matrix for each tap, padded."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from ...nn.upsample_conv import doubled_kernel

#: ``tl.dot`` takes no fewer rows and columns than this.
SMALLEST = 16
#: Which taps of the transposed kernel a phase meets, first the farther up (or left) of its two.
_PHASES = ((3, 1), (2, 0))


def padded(channels: int) -> int:
    """The next multiple of 16.

    >>> padded(16), padded(17)
    (16, 32)
    """
    return -(-channels // SMALLEST) * SMALLEST


def pack_taps(weight: Tensor) -> Tensor:
    """``(O, C, 3, 3)`` -> ``(9, padded C, padded O)``, taps row by row, zeros where padded."""
    return _pad(weight.permute(2, 3, 1, 0).flatten(0, 1))


def pack_phases(weight: Tensor) -> Tensor:
    """The kernels of a map that is doubled: ``(O, C, 3, 3)`` -> ``(16, padded C, padded O)``.

    Four matrices, two rows of two taps, for each of the phases (0, 0), (0, 1), (1, 0), (1, 1). Sums
    are made in float64, so that each is rounded once to the type of ``weight``.
    """
    kernel = doubled_kernel(weight.double()).to(weight.dtype).permute(2, 3, 0, 1)
    phases = [kernel[list(rows)][:, list(columns)] for rows in _PHASES for columns in _PHASES]
    return _pad(torch.cat([phase.flatten(0, 1) for phase in phases]))


def pack_window(weight: Tensor) -> Tensor:
    """``(O, C, h, w)`` -> ``(padded h * w * C, padded O)``: a window's values as an image has them.

    That is row by row, and of each pixel its channels.
    """
    return _pad(weight.permute(2, 3, 1, 0).flatten(0, 2)[None])[0]


def merges(classes: int) -> bool:
    """Whether a head computes its four phases as columns of one product.

    That is 16 products instead of 36, with as many columns or, of five to eight classes, twice.
    """
    return classes <= 8


def pack_head(weight: Tensor) -> Tensor:
    """The head's ``(O, C, 3, 3)`` -> ``(9, padded C, padded O)``, or where it :func:`merges`.

    Then ``(16, padded C, 4 P)``: the cells of a 4x4 window row by row, and of each phase ``P``
    columns, a power of two. The window of phase (1, 0) lies a row further down than that of (0, 0).
    """
    outs, channels = weight.shape[:2]
    if not merges(outs):
        return pack_taps(weight)
    merged = weight.new_zeros(4, 4, channels, 2, 2, merged_width(outs))
    taps = weight.permute(2, 3, 1, 0)
    for row, column in itertools.product(range(2), repeat=2):
        merged[row : row + 3, column : column + 3, :, row, column, :outs] = taps
    return _pad(merged.flatten(3).flatten(0, 1))


def pack_head_bias(bias: Tensor) -> Tensor:
    """One value for each column of :func:`pack_head`."""
    if not merges(len(bias)):
        return pack_bias(bias)
    return F.pad(bias, (0, merged_width(len(bias)) - len(bias))).repeat(4)


def merged_width(classes: int) -> int:
    """Columns of a phase: four times as many are what a product takes at least, or twice that."""
    return 4 if classes <= 4 else 8


def pack_bias(bias: Tensor) -> Tensor:
    """``(O,)`` -> ``(padded O,)``."""
    return F.pad(bias, (0, padded(len(bias)) - len(bias)))


def _pad(matrices: Tensor) -> Tensor:
    """``(taps, C, O)`` -> ``(taps, padded C, padded O)``, contiguous."""
    channels, outs = matrices.shape[1:]
    return F.pad(matrices, (0, padded(outs) - outs, 0, padded(channels) - channels)).contiguous()
