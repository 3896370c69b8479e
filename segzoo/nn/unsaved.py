"""Buffers that a model computes when it is built, and does not save: positions, masks, zero biases.

Only a real build gives their values, and it gives them in torch's default type, while a model may
have been converted to another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def built_for_buffers(make: Callable[[], Module]) -> Module:
    """What ``make`` makes, on the CPU.

    torch's random numbers go on as if nothing had been built: nobody keeps the weights.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return make()


def unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers by every name that they have, but those of the state dict."""
    saved = model.state_dict().keys()
    named = model.named_buffers(remove_duplicate=False)
    return {name: buffer for name, buffer in named if name not in saved}


def set_buffers(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Put buffers in the place of those that a model has under these names."""
    for name, buffer in buffers.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, buffer)


def convert_like(built: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Convert a model that was just built as another one was, by what that one's weights became.

    By the modules' own ``to``, for some keep a table in float32 whatever they are converted to.

    Args:
        built: The model, maybe on the meta device.
        saved: The state dict of the other one.
    """
    types = {name: item.dtype for name, item in saved.items() if item.is_floating_point()}
    _convert(built, types, next(iter(types.values()), None))


def _convert(
    module: nn.Module, types: Mapping[str, torch.dtype], around: torch.dtype | None
) -> None:
    """Convert a module; one without weights as those around it, one of several types by parts."""
    inside = set(types.values()) or ({around} if around else set())
    if len(inside) <= 1:
        before = {item.dtype for item in module.state_dict().values() if item.is_floating_point()}
        for dtype in inside if inside != before else ():
            module.to(dtype)
        return
    own = next((dtype for name, dtype in types.items() if "." not in name), around)
    for name, buffer in unsaved_buffers(module).items():
        if "." not in name and buffer.is_floating_point():
            setattr(module, name, buffer.to(own))
    for name, child in module.named_children():
        start = f"{name}."
        inner = {key.removeprefix(start): types[key] for key in types if key.startswith(start)}
        _convert(child, inner, own)
