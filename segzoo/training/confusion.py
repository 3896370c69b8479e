"""Confusion matrices, and what they say: counts in, shares out.

A matrix has a row for each true class and a column for each predicted one. What cannot be said is
None: the IoU of a class that is neither there nor predicted, the precision of one that is never
predicted, the recall of one that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: How often images are drawn again for an interval.
_DRAWS = 1000
#: Cells of the matrix of draws that are in memory at once.
_CELLS = 2**22


def confusion_of(predicted: Tensor, target: Tensor, valid: Tensor, classes: int) -> Tensor:
    """The matrix of an image's pixels that count, ``(classes, classes)``, int64, on the CPU.

    Args:
        predicted: ``(H, W)`` of classes.
        target: ``(H, W)`` of classes; anything where it is void.
        valid: ``(H, W)``, False where void.
        classes: How many there are.
    """
    cells = torch.where(valid, target * classes + predicted, classes * classes)
    counts = cells.flatten().bincount(minlength=classes * classes + 1)[:-1]
    return counts.view(classes, classes).cpu()


def shares(above: Sequence[int], below: Sequence[int]) -> tuple[float | None, ...]:
    """Quotients, None where there is nothing to divide by."""
    return tuple(a / b if b else None for a, b in zip(above, below, strict=True))


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there."""
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def bootstrap(counts: Tensor, ignored: int | None) -> Tensor:
    """What the scores would be for other images of the same kind: images are drawn again.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. The images of each
    draw are pooled as all are. The draws are the same in every call.

    Args:
        counts: ``(images, 3, K)``: right, true and predicted pixels of each class.
        ignored: A class that is left out of the mean, or None.

    Returns:
        ``(draws, 2 + K)``: mIoU, pixel accuracy and each class's IoU, NaN where there is none.
    """
    images = len(counts)
    generator = torch.Generator().manual_seed(0)
    flat = counts.flatten(1).double()
    found = []
    for some in torch.arange(_DRAWS).split(max(1, _CELLS // images)):
        drawn = torch.randint(images, (len(some), images), generator=generator)
        times = torch.zeros(len(some), images, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(times))
        right, true, predicted = (times @ flat).view(-1, *counts.shape[1:]).unbind(1)
        iou = right / (true + predicted - right)
        if ignored is not None:
            iou[:, ignored] = math.nan
        means = iou.nanmean(dim=1, keepdim=True)
        found.append(torch.cat([means, (right.sum(1) / true.sum(1))[:, None], iou], dim=1))
    return torch.cat(found)


def interval(draws: Tensor) -> tuple[float, float] | None:
    """Where the middle 95 % of draws lie; None where there are none."""
    known = draws[~draws.isnan()]
    if not len(known):
        return None
    low, high = known.quantile(torch.tensor([0.025, 0.975], dtype=known.dtype)).tolist()
    return low, high
