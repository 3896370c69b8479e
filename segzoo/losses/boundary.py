"""A loss of the classes' boundaries, made of max pooling."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks
from .sums import Pixels, Reduce, Term, mean_where, total_loss

#: Pixels within which boundaries count as one, where nothing else is said.
TOLERANCE = 2


def boundary_loss(
    logits: Tensor,
    target: Tensor,
    *,
    tolerance: int = TOLERANCE,
    ignore_index: int | None = None,
    reduce: Reduce | None = None,
) -> Tensor:
    """One minus the mean soft F1 of the classes' boundaries.

    Bokhovkin and Burnaev, "Boundary Loss for Remote Sensing Imagery Semantic Segmentation", 2019,
    section 3: max pooling finds boundaries and widens them. The loss of Kervadec et al., 2019,
    needs a distance map of every mask, which has to be made on a CPU. Here the sums are over all
    pixels of the batch; the mean is over the classes that have a boundary in it, and a pixel
    beside void has none. It says nothing of what lies inside a class, so it goes with another
    loss. It takes the most time of these losses and keeps ten copies of the logits. Where K is 1,
    only class 1 is measured.

    Args:
        logits: ``(N, K, H, W)``, floating point.
        target: ``(N, H, W)``, integers: classes (0 and 1 where K is 1) or ``ignore_index``.
        tolerance: Pixels, along rows and columns, by which boundaries may miss each other.
        ignore_index: The value of void; None where all pixels count.
        reduce: Adds a tensor up over all ranks; None for one rank.

    Raises:
        InputError: Shapes or types that do not go together, or a target that is no class.
        ArgumentError: A tolerance or a void out of its range.
    """
    checks.integer("tolerance", tolerance, minimum=0, maximum=1000)
    terms = [(1.0, boundary_term(tolerance))]
    return total_loss(terms, logits, target, ignore_index=ignore_index, reduce=reduce)


def boundary_term(tolerance: int) -> Term:
    """The boundary loss as sums and a formula."""
    return Term(partial(_sums, tolerance=tolerance), _one_minus_f1)


def _sums(pixels: Pixels, *, tolerance: int) -> Tensor:
    """Predicted boundary: found, all; true boundary: found, all; ``(4, classes)``."""
    classes = torch.arange(pixels.first, pixels.log.shape[1], device=pixels.log.device)
    truth = (pixels.target[:, None] == classes[:, None, None]).to(pixels.log.dtype)
    inside = -_widened(-pixels.valid[:, None], 1)  # no void beside it
    predicted = _boundary(pixels.log[:, pixels.first :].exp(), inside)
    true = _boundary(truth, inside)
    return torch.stack(
        [
            (predicted * _widened(true, tolerance)).sum(dim=(0, 2, 3)),
            predicted.sum(dim=(0, 2, 3)),
            (true * _widened(predicted, tolerance)).sum(dim=(0, 2, 3)),
            true.sum(dim=(0, 2, 3)),
        ]
    )


def _boundary(shares: Tensor, inside: Tensor) -> Tensor:
    """The pixels of a class that have a neighbour outside it, for shares of 0 to 1."""
    outside = 1 - shares
    return (_widened(outside, 1) - outside) * inside


def _widened(values: Tensor, reach: int) -> Tensor:
    """The largest value within ``reach`` pixels along rows and columns."""
    return F.max_pool2d(values, 2 * reach + 1, stride=1, padding=reach)


def _one_minus_f1(sums: Tensor) -> Tensor:
    found, predicted, met, true = sums
    tiny = torch.finfo(sums.dtype).eps
    precision, recall = found / (predicted + tiny), met / (true + tiny)
    return mean_where(1 - 2 * precision * recall / (precision + recall + tiny), true > 0)
