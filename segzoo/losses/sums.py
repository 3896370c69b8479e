"""What every loss is made of: sums over a batch's pixels, then a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..nn.full_precision import full_precision

#: Adds a tensor up over all ranks, differentiably.
Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pixels:
    """A batch as every loss sees it.

    Attributes:
        log: ``(N, C, H, W)``, log-probabilities of C = max(K, 2) classes.
        first: The first class that overlap is measured of: 1 for one logit, else 0.
        target: ``(N, H, W)``, int64; 0 where void.
        valid: ``(N, H, W)``, 1 where counted and 0 where void.
        true: ``(N, H, W)``, the log-probability of the true class; 0 where void.
    """

    log: Tensor
    first: int
    target: Tensor
    valid: Tensor
    true: Tensor

    def by_class(self, values: Tensor) -> Tensor:
        """``(N, H, W)`` -> ``(C,)``, added up over the counted pixels of each class.

        Row by row first: a GPU's threads would queue where each class has one cell only.
        """
        rows = values.new_zeros(*self.target.shape[:2], self.log.shape[1])
        return rows.scatter_add(2, self.target, values * self.valid).sum(dim=(0, 1))


@dataclass(frozen=True)
class Term:
    """A loss: sums over pixels or images, and the formula that makes the loss of them."""

    sums: Callable[[Pixels], Tensor]
    formula: Callable[[Tensor], Tensor]


def total_loss(
    terms: Sequence[tuple[float, Term]],
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None,
    reduce: Reduce | None,
) -> Tensor:
    """The weighted sum of losses; all their sums go through ``reduce`` at once.

    Raises:
        InputError: Shapes or types that do not go together, or a target that is no class.
    """
    check(logits, target, ignore_index)
    with full_precision(logits.device):
        pixels = _pixels(logits, target, ignore_index)
        sums = reduced([term.sums(pixels) for _, term in terms], reduce)
        losses = [
            weight * term.formula(item) for (weight, term), item in zip(terms, sums, strict=True)
        ]
        return torch.stack(losses).sum()


def reduced(sums: Sequence[Tensor], reduce: Reduce | None) -> list[Tensor]:
    """Sums added up over all ranks, in one call."""
    if reduce is None:
        return list(sums)
    parts = reduce(torch.cat([item.flatten() for item in sums])).split(
        [item.numel() for item in sums]
    )
    return [part.view(item.shape) for part, item in zip(parts, sums, strict=True)]


def ratio(sums: Tensor) -> Tensor:
    """The formula of a mean, from its numerator and denominator; 0 where nothing was counted."""
    above, below = sums.unbind()
    return above / torch.where(below > 0, below, 1.0)


def mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the values that are counted; 0 where none is."""
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp_min(1)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """A tensor added up over all ranks of ``torch.distributed``: a ``reduce`` for every loss.

    Its gradient is added up over the ranks as well, for the losses of all of them depend on it.
    Without a process group, or with one rank, it is the tensor itself.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    if distributed.get_world_size() == 1:
        return tensor
    total: Tensor = _SumOverRanks.apply(tensor)
    return total


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _all_reduced(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _all_reduced(grads[0])


def _all_reduced(tensor: Tensor) -> Tensor:
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total


def check(logits: Tensor, target: Tensor, ignore_index: int | None) -> None:
    """Raise for logits and a target that do not go together."""
    checks.void("ignore_index", ignore_index)
    for name, value in (("Logits", logits), ("A target", target)):
        if not isinstance(value, Tensor):
            raise InputError(f"{name} must be a tensor, got {type(value).__name__}.")
    if logits.ndim != 4 or not logits.is_floating_point():
        raise InputError(
            f"Expected logits (N, K, H, W) of floating point, got {logits.dtype} of the shape "
            f"{tuple(logits.shape)}."
        )
    expected = (logits.shape[0], *logits.shape[2:])
    if target.shape != expected:
        raise InputError(
            f"Logits of the shape {tuple(logits.shape)} need a target of the shape {expected}, "
            f"got {tuple(target.shape)}."
        )
    if target.is_floating_point() or target.is_complex():
        raise InputError(f"A target holds classes, so integers; got {target.dtype}.")
    if target.device.type == "cpu" and target.numel():  # a GPU would have to be waited for
        _check_values(target, max(logits.shape[1], 2), ignore_index)


def _check_values(target: Tensor, classes: int, ignore_index: int | None) -> None:
    target = target.long()  # as small integers, void would be another number: -1 is 255 of uint8
    lowest, highest = (int(value) for value in target.aminmax())
    if lowest >= 0 and highest < classes:
        return
    wrong = (target < 0) | (target >= classes)
    if ignore_index is not None:
        wrong &= target != ignore_index
    if wrong.any():
        void = "no void" if ignore_index is None else f"void {ignore_index}"
        raise InputError(
            f"The target holds {int(target[wrong][0])}, which is no class: they are 0 to "
            f"{classes - 1}, with {void}. Give its void as ignore_index=, or the model more "
            "classes."
        )


def _pixels(logits: Tensor, target: Tensor, ignore_index: int | None) -> Pixels:
    first = 1 if logits.shape[1] == 1 else 0
    log = two_classes(logits).log_softmax(dim=1)
    classes = target.long()
    if ignore_index is None:
        valid = torch.ones_like(classes, dtype=log.dtype)
    else:
        void = classes == ignore_index
        classes, valid = classes.masked_fill(void, 0), (~void).to(log.dtype)
    true = log.gather(1, classes[:, None])[:, 0] * valid
    return Pixels(log, first, classes, valid, true)


def two_classes(logits: Tensor) -> Tensor:
    """Logits in float32 or float64, of two classes where there is one: ``(0, x)``."""
    exact = wide(logits)
    return torch.cat([torch.zeros_like(exact), exact], dim=1) if logits.shape[1] == 1 else exact


def wide(tensor: Tensor) -> Tensor:
    """A tensor in float32, unless it is float64: what losses are computed in."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
