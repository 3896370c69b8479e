"""The meta device with values for positions: what a backbone computes from the size of an image.

The meta device computes shapes only, and for some backbones that is not enough. They look up a
table of relative positions by an index computed from the size of the image, and fail where the
table ends; or they read a size back from positions that they made. Neither depends on the pixels,
so positions can be computed, and they are small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from .._compat import operations_go_to
from . import known_shapes

#: What positions begin with.
_RANGES = frozenset(("arange", "linspace"))
#: The most numbers that have values: all pairs of a thousand patches. A stranger's options may ask
#: for an image of any size, which takes no memory where there are shapes only.
_MOST = 1 << 20


class PositionsHaveValues(AbstractContextManager[None]):
    """While it is active, positions have values, although images and weights have none.

    They lie on the CPU until they meet a tensor on the meta device.

    Raises:
        IndexError: (in what runs under it) A position lies outside the table that it is looked up
            in, which the meta device alone does not see.
    """

    def __init__(self) -> None:
        self._mode = operations_go_to(_computed)

    def __enter__(self) -> None:
        self._mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What one of torch's functions gives while positions have values."""
    name = func.overloadpacket.__name__
    tensors = tensors_in((args, kwargs))
    if not tensors and name not in _RANGES:
        large = _has_memory(kwargs) and not _is_small(func, args, kwargs)
        return _shapes_of(func, args, kwargs) if large else func(*args, **kwargs)
    if not any(tensor.is_meta for tensor in tensors) and _is_small(func, args, kwargs):
        return func(*args, **_on("cpu", kwargs))
    for rows, index in _lookups(name, args):
        _check(rows, index)
    return _shapes_of(func, args, kwargs)


def tensors_in(tree: Any) -> list[Tensor]:
    """Those in lists, tuples and values of mappings, of any depth."""
    if isinstance(tree, Tensor):
        return [tree]
    items = tree.values() if isinstance(tree, Mapping) else tree
    nested = isinstance(tree, (list, tuple, Mapping))
    return [tensor for item in items for tensor in tensors_in(item)] if nested else []


def _changed(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same lists, tuples and dictionaries with other tensors."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {name: _changed(item, change) for name, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [_changed(item, change) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    return tree


def _shapes_of(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the function gives on the meta device."""
    # A number without dimensions goes with tensors on any device.
    args, kwargs = _changed(
        (args, kwargs), lambda tensor: tensor.to("meta") if tensor.ndim else tensor
    )
    return known_shapes.on_meta(func, args, _on("meta", kwargs))


def _has_memory(kwargs: dict[str, Any]) -> bool:
    """Whether a tensor of its own is asked for on a device that has memory."""
    device = kwargs.get("device")
    return device is not None and torch.device(device).type != "meta"


def _on(device: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**kwargs, "device": torch.device(device)} if kwargs.get("device") else kwargs


def _is_small(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    try:
        made = _shapes_of(func, args, kwargs)
    except Exception:  # a shape that depends on the values, which are small themselves
        return True
    return sum(tensor.numel() for tensor in tensors_in(made)) <= _MOST


def _lookups(name: str, args: tuple[Any, ...]) -> Iterator[tuple[int, Tensor | None]]:
    """What is looked up in a table along one of its dimensions: its length, and the index."""
    if name == "index":
        table, indices = args
        yield from zip(table.shape, indices, strict=False)
    elif name in ("gather", "index_select"):
        table, dim, index = args[:3]
        yield table.shape[dim], index
    elif name == "embedding":
        table, index = args[:2]
        yield len(table), index


def _check(rows: int, index: Tensor | None) -> None:
    """Only an index of whole numbers that are known; what is not is left to the real run."""
    if index is None or index.is_meta or index.dtype in (torch.bool, torch.uint8):
        return
    if index.numel() and not -rows <= int(index.min()) <= int(index.max()) < rows:
        raise IndexError(
            f"positions {int(index.min())} to {int(index.max())} are looked up in a table of {rows}"
        )
