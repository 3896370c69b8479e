"""How well the boundaries of classes are met: boundary F1, for each image and class.

Csurka et al., "What is a good evaluation measure for semantic segmentation?", 2013, section 3:
precision is the share of a class's predicted boundary that lies within a tolerance of its true
boundary, recall the share of the true boundary that lies so near to the predicted one. Distances
are counted along rows and columns (the larger of both), for whole pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: The tolerance as a share of an image's diagonal, as in Csurka et al.
TOLERANCE = 0.0075
#: Integers with a bit for each class, and how many classes: the smaller, the faster.
_BITS = ((torch.int16, 14), (torch.int32, 30), (torch.int64, 62))


def tolerance_of(height: int, width: int) -> int:
    """The tolerance in an image of that size, in pixels: 0.75 % of its diagonal, 1 at least.

    >>> tolerance_of(360, 480), tolerance_of(1024, 2048)
    (4, 17)
    """
    return max(1, round(TOLERANCE * math.hypot(height, width)))


def boundary_f1(predicted: Tensor, target: Tensor, valid: Tensor, classes: int) -> Tensor:
    """F1 of each class's boundary in each image.

    A boundary pixel has a neighbour (left, right, above, below) of another class. Where either of
    the two is void, nobody knows, so that they are not compared.

    Args:
        predicted: ``(N, H, W)`` of classes.
        target: ``(N, H, W)`` of classes.
        valid: ``(N, H, W)``, False where void.
        classes: How many there are.

    Returns:
        ``(N, classes)``, float64; NaN where neither has a boundary of the class.
    """
    reach = tolerance_of(*target.shape[-2:])
    edges = [(labels, _edges(labels, valid)) for labels in (predicted, target)]
    sums = torch.zeros(4, len(target), classes, dtype=torch.float64)
    kind, width = next((item for item in _BITS if classes <= item[1]), _BITS[-1])
    for first in range(0, classes, width):
        bits = [_as_bits(labels - first, edge, width, kind) for labels, edge in edges]
        wide = [_widened(_widened(bit, reach, 1), reach, 2) for bit in bits]
        for i, near in ((0, wide[1]), (1, wide[0])):
            labels, edge = edges[i]
            here = edge & (labels >= first) & (labels < first + width)
            met = here & ((near >> (labels - first).clamp(0, width).to(kind)) & 1).bool()
            sums[2 * i] += _by_class(labels, met, classes)
            sums[2 * i + 1] += _by_class(labels, here, classes)
    found, all_predicted, reached, all_true = sums
    # 2PR / (P + R) for P = found / all predicted, R = reached / all true, where one may be empty.
    both = (found / all_predicted).nan_to_num(), (reached / all_true).nan_to_num()
    f1: Tensor = (2 * both[0] * both[1] / (both[0] + both[1])).nan_to_num()
    return f1.masked_fill(all_predicted + all_true == 0, math.nan)


def _edges(labels: Tensor, valid: Tensor) -> Tensor:
    """Where a pixel has a neighbour of another class."""
    edge = torch.zeros_like(valid)
    below = (labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1]
    beside = (labels[:, :, 1:] != labels[:, :, :-1]) & valid[:, :, 1:] & valid[:, :, :-1]
    edge[:, 1:] |= below
    edge[:, :-1] |= below
    edge[:, :, 1:] |= beside
    edge[:, :, :-1] |= beside
    return edge


def _as_bits(numbers: Tensor, edge: Tensor, width: int, kind: torch.dtype) -> Tensor:
    """A bit for each of ``width`` classes, set where its boundary is."""
    seen = edge & (numbers >= 0) & (numbers < width)
    bits = torch.ones_like(numbers, dtype=kind) << numbers.clamp(0, width - 1).to(kind)
    return bits.masked_fill(~seen, 0)


def _widened(bits: Tensor, reach: int, dim: int) -> Tensor:
    """What lies within ``reach`` cells along a dimension: windows that double, all bits at once."""
    shape = list(bits.shape)
    shape[dim] = reach
    edge = bits.new_zeros(shape)
    wide = torch.cat([edge, bits, edge], dim)
    length = 1
    while length < 2 * reach + 1:
        step = min(length, 2 * reach + 1 - length)
        kept = wide.shape[dim] - step
        wide = wide.narrow(dim, 0, kept) | wide.narrow(dim, step, kept)
        length += step
    return wide


def _by_class(labels: Tensor, where: Tensor, classes: int) -> Tensor:
    """How many pixels of each image and class there are, ``(N, classes)``."""
    return torch.stack(
        [label[here].bincount(minlength=classes) for label, here in zip(labels, where, strict=True)]
    ).to("cpu", torch.float64)
