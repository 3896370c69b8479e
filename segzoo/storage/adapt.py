"""A trained model for another number of classes or bands: what fits is kept."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from ..config import ConfiguredModel
from ..nn.unsaved import convert_like
from ..preprocessing import Normalization
from ..registry import build

ModelT = TypeVar("ModelT", bound=ConfiguredModel)

_log = logging.getLogger(__name__)


def adapted(
    model: ModelT,
    *,
    classes: int | None = None,
    in_channels: int | None = None,
) -> ModelT:
    """The model, or where another number is asked for a new one that has all weights that fit.

    Weights of the first convolution are adapted to other bands as timm does (summed over RGB for
    one band, repeated in a cycle for more); whatever else has another shape begins anew. One line
    in the log names it.

    Args:
        model: Is not changed.
        classes: Other than the model's, or None.
        in_channels: Other than the model's, or None.

    Raises:
        ArgumentError: A number out of range.
    """
    config = model.config
    if classes is not None and classes != config.classes:
        config = replace(config, classes=classes, class_names=None)
    if in_channels is not None and in_channels != config.in_channels:
        config = replace(
            config, in_channels=in_channels, normalization=_bands(model.normalization, in_channels)
        )
    if config is model.config:
        return model
    result = cast("ModelT", build(model.architecture, config)).eval()
    result.base_model = model.base_model
    source, target = model.state_dict(), result.state_dict()
    floating = (item.dtype for item in source.values() if item.is_floating_point())
    first = next(floating, torch.get_default_dtype())
    anew: list[str] = []
    for name, tensor in target.items():
        value = source.get(name)
        if value is not None and value.shape != tensor.shape:
            value = _other_bands(value, tensor, model.in_channels, result.in_channels)
        if value is None:
            anew.append(name)
            dtype = source[name].dtype if name in source else first
            value = tensor.to(dtype) if tensor.is_floating_point() else tensor
        target[name] = value.detach().clone()
    convert_like(result, target)
    result.load_state_dict(target, assign=True)  # in the types that the model has
    _log.warning(
        "%s now has %d classes and %d bands; new and untrained: %s.",
        type(model).__name__,
        result.classes,
        result.in_channels,
        ", ".join(anew) or "nothing",
    )
    return result


def _bands(normalization: Normalization, bands: int) -> Normalization | None:
    """The statistics for other bands; those of the encoder where they cannot be derived."""
    return normalization.for_bands(bands) if len(normalization.mean) == 3 else None


def _other_bands(value: Tensor, like: Tensor, old: int, new: int) -> Tensor | None:
    """Weights of a first convolution for another number of bands, or None where it is not one."""
    from timm.models import adapt_input_conv

    if (
        old != 3
        or value.ndim != 4
        or value.shape[1] != old
        or like.shape != (value.shape[0], new, *value.shape[2:])
    ):
        return None
    adapted: Tensor = adapt_input_conv(new, value)
    return adapted
