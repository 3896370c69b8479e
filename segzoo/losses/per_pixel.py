"""Losses that are a mean over pixels, and the weights of classes in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import ArgumentError
from .sums import Pixels, Reduce, Term, ratio, total_loss


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    class_weights: Tensor | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    reduce: Reduce | None = None,
) -> Tensor:
    """The mean of the true classes' negative log-probabilities.

    The value of ``torch.nn.functional.cross_entropy``, which is NaN for a batch of void.

    Args:
        logits: ``(N, K, H, W)``, floating point.
        target: ``(N, H, W)``, integers: classes (0 and 1 where K is 1) or ``ignore_index``.
        ignore_index: The value of void; None where all pixels count.
        class_weights: One weight for each class, two where K is 1; None for equal ones.
        label_smoothing: Share of the target that is spread over all classes, 0 to 1.
        reduce: Adds a tensor up over all ranks; None for one rank.

    Raises:
        InputError: Shapes or types that do not go together, or a target that is no class.
        ArgumentError: A smoothing or a void out of its range, or not one weight for each class.
    """
    term = cross_entropy_term(class_weights, label_smoothing)
    return total_loss([(1.0, term)], logits, target, ignore_index=ignore_index, reduce=reduce)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    ignore_index: int | None = None,
    class_weights: Tensor | Sequence[float] | None = None,
    reduce: Reduce | None = None,
) -> Tensor:
    """Cross-entropy that counts a pixel less, the surer it is: ``-(1 - p)^gamma log p``.

    Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 5, whose alpha are the
    class weights; the mean over pixels, so that ``gamma=0`` is :func:`cross_entropy`.

    Args:
        logits: ``(N, K, H, W)``, floating point.
        target: ``(N, H, W)``, integers: classes (0 and 1 where K is 1) or ``ignore_index``.
        gamma: 0 to 100.
        ignore_index: The value of void; None where all pixels count.
        class_weights: One weight for each class, two where K is 1; None for equal ones.
        reduce: Adds a tensor up over all ranks; None for one rank.

    Raises:
        InputError: Shapes or types that do not go together, or a target that is no class.
        ArgumentError: A gamma or a void out of its range, or not one weight for each class.
    """
    term = focal_term(class_weights, gamma)
    return total_loss([(1.0, term)], logits, target, ignore_index=ignore_index, reduce=reduce)


def balanced_weights(pixels: Sequence[int], *, bound: float = 1.02) -> tuple[float, ...]:
    """Class weights ``1 / log(bound + share)``: large for rare classes, never boundless.

    Paszke et al., "ENet", 2016, section 5.2.

    >>> [round(weight, 1) for weight in segzoo.losses.balanced_weights([90, 10, 0])]
    [1.5, 8.8, 50.5]

    Args:
        pixels: How many pixels of the training data each class has.
        bound: Above 1; the nearer to 1, the larger the weight of a rare class.

    Raises:
        ArgumentError: A bound that is not above 1, or counts that are none.
    """
    checks.number("bound", bound, minimum=1.0 + 1e-6, maximum=1e6)
    counts = checks.sequence("pixels", _listed(pixels), _count, longest=65536)
    total = max(sum(counts), 1)
    return tuple(1.0 / math.log(bound + count / total) for count in counts)


def _count(name: str, value: object) -> float:
    return checks.number(name, value, minimum=0, maximum=1e18)


def _listed(values: object) -> object:
    """Of a tensor or an array its list; else what was given."""
    return values.tolist() if isinstance(values, (Tensor, np.ndarray)) else values


def weights_of_classes(given: Sequence[float] | None) -> Tensor | None:
    """The weights that somebody gave for classes, checked, as a tensor."""
    if given is None:
        return None

    def weight(name: str, value: float) -> float:
        return checks.number(name, value, minimum=0.0, maximum=1e9)

    return torch.tensor(checks.sequence("class_weights", _listed(given), weight, longest=65536))


def cross_entropy_term(
    class_weights: Tensor | Sequence[float] | None, label_smoothing: float
) -> Term:
    """Cross-entropy as sums and a formula."""
    class_weights = _as_tensor(class_weights)
    smoothing = checks.number("label_smoothing", label_smoothing, minimum=0.0, maximum=1.0)

    def sums(pixels: Pixels) -> Tensor:
        weights = _weights(pixels, class_weights)
        counted = _by_target(pixels, weights)
        loss = -(counted * pixels.true).sum()
        if smoothing:
            # The mean over the classes, each with its own weight, as torch defines it.
            spread = (pixels.log * pixels.valid[:, None]).sum(dim=(0, 2, 3))
            even = spread.sum() if weights is None else spread.dot(weights)
            loss = (1 - smoothing) * loss - smoothing / len(spread) * even
        return torch.stack([loss, counted.sum()])

    return Term(sums, ratio)


def focal_term(class_weights: Tensor | Sequence[float] | None, gamma: float) -> Term:
    """The focal loss as sums and a formula."""
    class_weights = _as_tensor(class_weights)
    exponent = checks.number("gamma", gamma, minimum=0.0, maximum=100.0)

    def sums(pixels: Pixels) -> Tensor:
        counted = _by_target(pixels, _weights(pixels, class_weights))
        # Below this the slope of a root would be infinite where the loss itself is 0.
        tiny = torch.finfo(pixels.true.dtype).tiny
        unsure = (-pixels.true.expm1()).clamp_min(tiny) ** exponent
        return torch.stack([-(counted * unsure * pixels.true).sum(), counted.sum()])

    return Term(sums, ratio)


def _as_tensor(class_weights: Tensor | Sequence[float] | None) -> Tensor | None:
    """A tensor is taken as it is: on a GPU it would cost time to look at it."""
    return class_weights if isinstance(class_weights, Tensor) else weights_of_classes(class_weights)


def _weights(pixels: Pixels, class_weights: Tensor | None) -> Tensor | None:
    classes = pixels.log.shape[1]
    if class_weights is not None and class_weights.shape != (classes,):
        raise ArgumentError(
            f"class_weights must have one weight for each of {classes} classes, got the shape "
            f"{tuple(class_weights.shape)}."
        )
    return None if class_weights is None else class_weights.to(pixels.log)


def _by_target(pixels: Pixels, weights: Tensor | None) -> Tensor:
    """The weight of each pixel; 0 where void."""
    return pixels.valid if weights is None else weights[pixels.target] * pixels.valid
