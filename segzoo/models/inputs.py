"""What goes into a model, checked before it fails with a riddle further down; pictures to masks."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..encoders import Encoder
from ..errors import InputError, warn
from ..preprocessing import Normalization


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


def classes_of(model: Segments, image: Tensor, weight: Tensor) -> Tensor:
    """The class of each pixel of pictures; see :meth:`segzoo.SegmentationModel.predict`.

    Args:
        model: In eval mode.
        image: ``(C, H, W)`` or ``(N, C, H, W)``, before normalisation.
        weight: On the model's device, of its precision.
    """
    if not isinstance(image, Tensor) or image.ndim not in (3, 4):
        raise InputError(f"Expected an image (C, H, W) or (N, C, H, W), got {_describe(image)}.")
    batch = image if image.ndim == 4 else image[None]
    logits = model(model.normalization(batch.to(weight.device)).to(weight.dtype))
    one = model.classes == 1
    mask: Tensor = (logits[:, 0] > model.threshold).long() if one else logits.argmax(dim=1)
    return mask if image.ndim == 4 else mask[0]


def check_batch(image: Tensor, in_channels: int) -> None:
    """Raise for what is no batch of normalised images with that many bands."""
    if not isinstance(image, Tensor) or image.ndim != 4:
        raise InputError(
            f"Expected a batch of images (N, {in_channels}, H, W), got {_describe(image)}. "
            "A single image needs a batch dimension: image[None]."
        )
    if image.shape[1] != in_channels:
        raise InputError(
            f"The model takes {in_channels} channels, the image has {image.shape[1]} "
            f"(shape {tuple(image.shape)}). Build the model with in_channels={image.shape[1]}, "
            "or choose the bands."
        )
    if not image.is_floating_point():
        raise InputError(
            f"Expected a normalised floating point image, got {image.dtype}. Call "
            "model.normalization(image) first, or model.predict(image), which does it for you."
        )
    if 0 in image.shape:
        raise InputError(f"The batch is empty: shape {tuple(image.shape)}.")


def explain_precision(error: RuntimeError, image: Tensor, model: nn.Module) -> None:
    """Raise for an image whose precision torch could not compute with, if that is what failed.

    Only afterwards: an encoder may well convert its images, autocast does, and of a model that is
    sharded the parameters do not tell what it computes in.
    """
    weights = [item.dtype for item in model.parameters() if item.is_floating_point()]
    if weights and image.dtype not in weights and "type" in str(error):
        raise InputError(
            f"The image is {image.dtype}, the model's weights are {weights[0]}, and torch does not "
            f"compute with both. Convert one of them: image.to({weights[0]}), or "
            f"model.to({image.dtype})."
        ) from error


def warn_if_resized(image: Tensor, encoder: Encoder) -> None:
    """One warning where an encoder takes only one size, and this image has another."""
    rule = encoder.size_rule
    if rule.fixed and not torch.compiler.is_compiling() and not rule.pads(image):
        warn(
            f"{encoder.name} takes {rule.fixed[0]}x{rule.fixed[1]} images only, so others "
            "are resized on the way in and the logits on the way out. For full resolution "
            "build the model with image_size=(height, width), or choose another encoder."
        )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__}"
