"""Running a backbone on the meta device: shapes and graphs without values, memory or time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..features import FeatureSpec
from .sizes import Size


def on_meta(
    backbone: nn.Module, *, gradients: bool = False
) -> tuple[Callable[[Tensor], Sequence[Tensor]], dict[str, Tensor]]:
    """A function that runs the backbone on the meta device, and the parameters it runs with.

    The backbone itself, its weights and its statistics are not touched.
    """
    parameters = {
        name: torch.empty_like(parameter, device="meta").requires_grad_(
            gradients and parameter.is_floating_point()
        )
        for name, parameter in backbone.named_parameters()
    }
    buffers = {
        name: torch.empty_like(buffer, device="meta") for name, buffer in backbone.named_buffers()
    }

    def run(image: Tensor) -> Sequence[Tensor]:
        maps: Sequence[Tensor] = functional_call(backbone, {**parameters, **buffers}, (image,))
        return maps

    return run, parameters


def accepts(
    run: Callable[[Tensor], Sequence[Tensor]],
    features: Sequence[FeatureSpec],
    bands: int,
    channels_last: bool,
    size: Size,
) -> bool:
    """Whether a backbone on the meta device gives its maps for an image of ``size``."""
    image = torch.empty(1, bands, *size, device="meta")
    try:
        with torch.no_grad():
            maps = run(image)
    except Exception:
        # A backbone may fail in any way at a size that it does not take.
        return False
    axis = 3 if channels_last else 1
    return (
        len(maps) == len(features)
        and all(item.ndim == 4 and item.numel() for item in maps)
        and [item.shape[axis] for item in maps] == [feature.channels for feature in features]
    )
