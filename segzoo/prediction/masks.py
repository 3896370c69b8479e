"""From a model's logits to the class of each pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .. import checks
from ..errors import ArgumentError, InputError
from ..preprocessing import Normalization
from .inputs import check_finite, describe, normalized

#: What a pixel of a mask gets that the model is not sure of: no class, in most data sets.
VOID = 255
_NOT_A_NUMBER = (
    "The model's logits are NaN for a picture of finite pixels: its weights are NaN or infinite (a "
    "training that diverged), or too large for its precision (float16). Load it from before, or "
    "compute in float32 or bfloat16."
)


class Described(Protocol):
    """What a model says of the pictures that it takes, and of what it makes of them."""

    @property
    def classes(self) -> int:
        """Number of logits for each pixel."""

    @property
    def in_channels(self) -> int:
        """Bands of the picture."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name for each class, or None where they have none."""


class Segments(Protocol):
    """What :func:`classes_of` needs of a model."""

    @property
    def classes(self) -> int:
        """Number of logits for each pixel."""

    @property
    def threshold(self) -> float:
        """With one class: the output above which a pixel belongs to it."""

    @property
    def normalization(self) -> Normalization:
        """What the model expects of its pixels."""

    def __call__(self, image: Tensor) -> Tensor:
        """Normalised images ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``."""


class Segmenter(Described, Protocol):
    """What gives a mask for a picture: a model, an optimised one, or anything like them."""

    def predict(self, image: Tensor, *, min_confidence: float | None = None) -> Tensor:
        """Pictures -> the class of each pixel."""


def check_confidence(value: float | None, classes: int) -> float | None:
    """How sure a model has to be of a pixel, checked; None for no matter.

    Raises:
        ArgumentError: It is no probability, or void would be one of the classes.
    """
    if value is None:
        return None
    if classes > VOID:
        raise ArgumentError(
            f"min_confidence writes {VOID} where the model is not sure, but of its {classes} "
            f"classes {VOID} is one. Take the probabilities, and mark what is unsure yourself."
        )
    return checks.number("min_confidence", value, minimum=0, maximum=1)


def unsure(probabilities: Tensor, least: float) -> Tensor:
    """Where no class is as probable as ``least``: ``(N, C, H, W)`` -> ``(N, H, W)``, of bool.

    Of one class the probability of its absence counts too.
    """
    best = probabilities.amax(dim=1)
    if probabilities.shape[1] == 1:
        best = torch.maximum(best, 1 - best)
    return best < least


def classes_of(
    model: Segments,
    image: Tensor,
    weight: Tensor,
    min_confidence: float | None = None,
    *,
    masks: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The class of each pixel of pictures; see :meth:`segzoo.SegmentationModel.predict`.

    Args:
        model: In eval mode.
        image: ``(C, H, W)`` or ``(N, C, H, W)``, before normalisation.
        weight: On the model's device, of its precision.
        min_confidence: Pixels of a smaller probability become :data:`VOID`; None for none.
        masks: Gives the classes of normalised images without their logits, :data:`VOID` where one
            is NaN; None where there is no such way.
    """
    least = check_confidence(min_confidence, max(model.classes, 2))
    if not isinstance(image, Tensor) or image.ndim not in (3, 4):
        raise InputError(f"Expected an image (C, H, W) or (N, C, H, W), got {describe(image)}.")
    batch = image if image.ndim == 4 else image[None]
    check_finite(batch)
    ready = normalized(model.normalization, batch, weight.device, weight.dtype)
    if masks is not None and least is None:
        found = masks(ready)
        if bool((found == VOID).any()):
            raise InputError(_NOT_A_NUMBER)
        found = found.long()
        return found if image.ndim == 4 else found[0]
    logits = model(ready)
    one = model.classes == 1
    # As argmax gives, which takes four times as long on a CPU.
    largest, winner = (logits[:, 0], logits[:, 0]) if one else logits.max(dim=1)
    check_logits(largest)
    mask: Tensor = (largest > model.threshold).long() if one else winner
    if least is not None:
        wide = logits.float()
        found = torch.sigmoid(wide - model.threshold) if one else wide.softmax(dim=1)
        mask = mask.masked_fill(unsure(found, least), VOID)
    return mask if image.ndim == 4 else mask[0]


def check_logits(largest: Tensor) -> None:
    """Raise for logits that are NaN: every class would be a guess.

    Args:
        largest: Of the logits of each pixel, or of any pixels; NaN where one is. They are for
            pictures that passed :func:`~segzoo.prediction.inputs.check_finite`.

    Raises:
        InputError: One is NaN.
    """
    if bool(largest.isnan().any()):
        raise InputError(_NOT_A_NUMBER)
