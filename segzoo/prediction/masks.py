"""From a model's logits to the class of each pixel."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..errors import InputError
from ..nn.finite import is_finite
from ..preprocessing import Normalization
from .inputs import describe


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
        """Normalised images -> logits."""


class Segmenter(Protocol):
    """What gives a mask for a picture: a model, an optimised one, or anything like them."""

    @property
    def classes(self) -> int:
        """Number of logits for each pixel."""

    @property
    def in_channels(self) -> int:
        """Bands of the picture."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name for each class, or None where they have none."""

    def predict(self, image: Tensor) -> Tensor:
        """Pictures -> the class of each pixel."""


def classes_of(model: Segments, image: Tensor, weight: Tensor) -> Tensor:
    """The class of each pixel of pictures; see :meth:`segzoo.SegmentationModel.predict`.

    Args:
        model: In eval mode.
        image: ``(C, H, W)`` or ``(N, C, H, W)``, before normalisation.
        weight: On the model's device, of its precision.
    """
    if not isinstance(image, Tensor) or image.ndim not in (3, 4):
        raise InputError(f"Expected an image (C, H, W) or (N, C, H, W), got {describe(image)}.")
    batch = image if image.ndim == 4 else image[None]
    logits = model(model.normalization(batch.to(weight.device)).to(weight.dtype))
    one = model.classes == 1
    # As argmax gives, which takes four times as long on a CPU.
    largest, winner = (logits[:, 0], logits[:, 0]) if one else logits.max(dim=1)
    if bool(largest.isnan().any()):
        raise InputError(_not_a_number(batch))
    mask: Tensor = (largest > model.threshold).long() if one else winner
    return mask if image.ndim == 4 else mask[0]


def _not_a_number(batch: Tensor) -> str:
    """What to say of logits that are NaN: every class would be a guess."""
    if not is_finite(batch):
        return "The picture has pixels that are NaN or infinite; put numbers in their place."
    return (
        "The model's logits are NaN for a picture of finite pixels: its weights are NaN or "
        "infinite (a training that diverged), or too large for its precision (float16). Load it "
        "from before, or compute in float32 or bfloat16."
    )
