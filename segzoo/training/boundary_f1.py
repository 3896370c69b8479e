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
#: Integers for classes, likewise.
_LABELS = (torch.uint8, torch.int16, torch.int32)


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
    small = next(kind for kind in _LABELS if classes <= torch.iinfo(kind).max)
    pairs = zip(predicted.to(small), target.to(small), valid, strict=True)
    return torch.stack([_of_image(said, true, counted, classes) for said, true, counted in pairs])


def _of_image(predicted: Tensor, target: Tensor, valid: Tensor, classes: int) -> Tensor:
    """F1 of each class's boundary in an image, ``(classes,)``."""
    shape, reach = target.shape, tolerance_of(*target.shape)
    kind, width = next((item for item in _BITS if classes <= item[1]), _BITS[-1])
    # Few pixels are on a boundary: where they are, and of which class.
    places = [_edges(labels, valid).flatten().nonzero()[:, 0] for labels in (predicted, target)]
    numbers = [
        labels.flatten()[place].long()
        for labels, place in zip((predicted, target), places, strict=True)
    ]
    met = [torch.zeros_like(number, dtype=torch.bool) for number in numbers]
    for first in range(0, classes, width):
        bits = [(torch.ones_like(n) << (n - first).clamp(0, width - 1)).to(kind) for n in numbers]
        inside = [(n >= first) & (n < first + width) for n in numbers]
        maps = []
        for place, bit, here in zip(places, bits, inside, strict=True):
            drawn = torch.zeros(shape.numel(), dtype=kind, device=target.device)
            drawn[place] = bit.masked_fill(~here, 0)
            maps.append(_widened(_widened(drawn.view(shape), reach, 0), reach, 1).flatten())
        for i, other in ((0, maps[1]), (1, maps[0])):
            met[i] |= inside[i] & ((other[places[i]] & bits[i]) != 0)
    sums = [
        labels.bincount(minlength=classes).to("cpu", torch.float64)
        for labels in (numbers[0][met[0]], numbers[0], numbers[1][met[1]], numbers[1])
    ]
    found, all_predicted, reached, all_true = sums
    # 2PR / (P + R) for P = found / all predicted, R = reached / all true, where one may be empty.
    precision, recall = (found / all_predicted).nan_to_num(), (reached / all_true).nan_to_num()
    f1: Tensor = (2 * precision * recall / (precision + recall)).nan_to_num()
    return f1.masked_fill(all_predicted + all_true == 0, math.nan)


def _edges(labels: Tensor, valid: Tensor) -> Tensor:
    """Where a pixel has a neighbour of another class, ``(H, W)``."""
    edge = torch.zeros_like(valid)
    below = (labels[1:] != labels[:-1]) & valid[1:] & valid[:-1]
    beside = (labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1]
    edge[1:] |= below
    edge[:-1] |= below
    edge[:, 1:] |= beside
    edge[:, :-1] |= beside
    return edge


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
