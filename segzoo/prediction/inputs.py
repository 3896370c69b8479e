"""What goes into a model, checked before it fails with a riddle further down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..encoders import Encoder
from ..errors import InputError, warn
from ..nn.finite import is_finite


def check_batch(image: Tensor, in_channels: int) -> None:
    """Raise for what is no batch of normalised images with that many bands."""
    if not isinstance(image, Tensor) or image.ndim != 4:
        raise InputError(
            f"Expected a batch of images (N, {in_channels}, H, W), got {describe(image)}. "
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


def check_finite(pictures: Tensor, name: str = "picture") -> None:
    """Raise for pictures whose pixels are not all numbers.

    Before the model runs: that its logits are NaN tells of some only. A ReLU or a maximum may make
    zero of a NaN, as those of oneDNN and OpenVINO do, and what follows is a mask of nothing.

    Raises:
        InputError: It has NaN or infinity.
    """
    if not is_finite(pictures):  # of integers nothing is read
        raise InputError(
            f"The {name} has pixels that are NaN or infinite; put numbers in their place."
        )


def normalized(
    normalization: Callable[[Tensor], Tensor],
    pixels: Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Pixels ``(..., C, H, W)`` as a model takes them, on its device and of its precision.

    They are normalised in float32, or in a finer type that one of both has, and rounded in the end
    only: mean and deviation would magnify what is lost before. Whatever makes a mask begins here,
    so that the same picture gets the same mask.

    Args:
        normalization: What the model expects of its pixels.
        pixels: uint8, uint16, or floating point in 0..1.
        device: Where the model computes.
        dtype: Its precision.
    """
    moved = pixels.to(device)
    if moved.is_floating_point():
        finer = torch.promote_types(moved.dtype, dtype)
        moved = moved.to(torch.promote_types(finer, torch.float32))
    return normalization(moved).to(dtype)


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


def describe(value: Any) -> str:
    """A value in the words of an error message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__}"
