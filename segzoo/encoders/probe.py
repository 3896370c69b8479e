"""Running a backbone on the meta device: shapes and graphs without pixels, memory or time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from ..features import FeatureSpec
from ..nn.sharing import copied_modules
from .positions import PositionsHaveValues

Module = TypeVar("Module", bound=nn.Module)


#: What fills or changes values in place: nothing to do where there are none.
_FILLING = frozenset(
    f"{name}_" for name in ("normal", "uniform", "zero", "fill", "erfinv", "mul", "add", "clamp")
)


class _WithoutValues(TorchFunctionMode):
    """Makes building on the meta device quick, and possible with older timm.

    Initialising is skipped, because there are no values to set; but a ``linspace`` gets real
    ones, because older timm reads its drop-path rates from it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        elif func.__name__ in _FILLING or getattr(func, "__module__", "") == "torch.nn.init":
            filled, *others = args or (kwargs.get("tensor"),)
            beside = {name: item for name, item in kwargs.items() if name != "tensor"}
            # A tensor that is added is part of a forward, whose graph may be looked at.
            if isinstance(filled, Tensor) and filled.is_meta and not _has_tensor(others, beside):
                return filled
        return func(*args, **kwargs)


def _has_tensor(others: Sequence[Any], named: Mapping[str, Any]) -> bool:
    return any(isinstance(item, Tensor) for item in (*others, *named.values()))


class _ShapesOnly(TorchFunctionMode):
    """Shapes without a computation: they are all that a probe looks at.

    Batch normalisation in eval mode keeps the shape, and resizing to a size gives that size. On the
    meta device torch takes both apart into dozens of operations written in Python, and most of the
    time that some networks are probed would go there.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs.get("training") is False and args[0].is_meta:
            return args[0]
        if func is F.interpolate and args[0].is_meta:
            size: Any = args[1] if len(args) > 1 else kwargs.get("size")
            if _is_size(size, args[0].ndim - 2):
                return args[0].new_empty((*args[0].shape[:2], *size))
        return func(*args, **kwargs)


def _is_size(size: Any, dimensions: int) -> bool:
    """Whether it is a size that needs no more thought; what is no size is left to torch."""
    return (
        isinstance(size, (tuple, list))
        and len(size) == dimensions
        and all(type(side) is int and side > 0 for side in size)
    )


def build_on_meta(build: Callable[[], Module]) -> Module:
    """What ``build`` makes, on the meta device: its weights are never allocated.

    Unless a backbone reads values while it is built, as RegNet does in some versions of timm.
    """
    # Before the device counts: torch 2.8 cannot import its compiler under one, and timm may do so.
    importlib.import_module("timm")
    try:
        with torch.device("meta"), _WithoutValues():
            return build().to("meta")
    except NotImplementedError:
        with torch.random.fork_rng(devices=[]):  # weights that nobody keeps
            return build().to("meta")


def parameter_count(module: nn.Module) -> int:
    """The number of weights of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(
    backbone: nn.Module, *, gradients: bool = False
) -> tuple[Callable[[Tensor], Sequence[Tensor]], dict[str, Tensor]]:
    """A function that runs the backbone on the meta device, and the parameters it runs with.

    The backbone itself, its weights and its statistics are not touched: it is a copy that runs,
    wherever one can be made.
    """
    backbone = copied_modules(backbone) or backbone
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
    image: Tensor,
    *,
    channels_last: bool,
) -> bool:
    """Whether a backbone gives the maps that it declares for an image."""
    try:
        with torch.no_grad(), _ShapesOnly(), PositionsHaveValues():
            maps = run(image)
    except Exception:
        # A backbone may fail in any way at a size that it does not take.
        return False
    return difference(maps, features, channels_last=channels_last) is None and all(
        item.numel() for item in maps
    )


def difference(
    maps: Any, features: Sequence[FeatureSpec], *, channels_last: bool, more: bool = False
) -> str | None:
    """In what a backbone's answer is not what it declares; None where it is.

    Args:
        maps: What the backbone gave.
        features: What it declares.
        channels_last: Its maps are ``(N, H, W, C)``.
        more: Whether others may follow the maps.
    """
    if isinstance(maps, (Tensor, Mapping)) or not hasattr(maps, "__len__"):
        return f"gives no list of maps, but a {type(maps).__name__}"
    if len(maps) < len(features) or (len(maps) > len(features) and not more):
        return f"gives a list of {len(maps)}, but declares {len(features)} maps"
    axis = 3 if channels_last else 1
    for i, (item, feature) in enumerate(zip(maps, features, strict=False)):
        if not isinstance(item, Tensor) or item.ndim != 4:
            shape = tuple(item.shape) if isinstance(item, Tensor) else type(item).__name__
            return f"gives as map {i} no tensor of four dimensions ({shape})"
        if item.shape[axis] != feature.channels:
            return f"gives {item.shape[axis]} channels in map {i}, but declares {feature.channels}"
    return None
