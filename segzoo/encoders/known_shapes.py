"""What operations give on the meta device, computed once for each combination of shapes.

Many of torch's operations are written in Python where only shapes are computed, and take most of a
millisecond there. A backbone is run dozens of times to find which images it takes, and its blocks
are alike; so the shapes that an operation gave are kept, and tensors of such shapes are made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from .._compat import gives_new_tensors

#: So many results are kept; a backbone has some hundreds at a size.
_MOST = 1 << 14
_KNOWN: dict[Hashable, Any] = {}
_NOTHING = object()


def on_meta(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """What one of torch's operations gives, whose tensors are on the meta device.

    A result is looked up only where it is sure to follow from the shapes, strides and types of
    the tensors and from the other arguments: where the operation changes none of them, gives
    new tensors, and nothing in it has values.
    """
    key = _key(func, args, kwargs)
    known = _NOTHING if key is None else _KNOWN.get(key, _NOTHING)
    if known is not _NOTHING:
        return _made(known)
    result = func(*args, **kwargs)
    if key is not None and _can_be_kept(result):
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        _KNOWN[key] = _kept(result)
    return result


_new = functools.lru_cache(maxsize=4096)(gives_new_tensors)


def _key(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Hashable | None:
    """What the result follows from; None where that is not sure."""
    if not _new(func):
        return None
    try:
        key = (func, _described(args), _described(kwargs))
        hash(key)
    except (TypeError, _ValuesError):
        return None
    return key


class _ValuesError(Exception):
    """A tensor of which more than its shape counts."""


def _described(tree: Any) -> Hashable:
    if isinstance(tree, Tensor):
        if not tree.is_meta or tree.layout is not torch.strided or tree.is_complex():
            raise _ValuesError
        return Tensor, tree.shape, tree.stride(), tree.dtype
    if isinstance(tree, dict):
        return dict, tuple((name, _described(item)) for name, item in tree.items())
    if isinstance(tree, (list, tuple)):
        return list, tuple(map(_described, tree))
    return type(tree), tree  # 1 is not 1.0, nor True


def _can_be_kept(result: Any) -> bool:
    if isinstance(result, (list, tuple)):
        return all(map(_can_be_kept, result))
    return result is None or bool(
        type(result) is Tensor
        and result.is_meta
        and result.layout is torch.strided
        and not result.is_complex()
        and result.storage_offset() == 0
    )


def _kept(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.shape, result.stride(), result.dtype
    return None if result is None else [type(result), *map(_kept, result)]


def _made(known: Any) -> Any:
    """The inverse of :func:`_kept`, with tensors of its own each time."""
    if isinstance(known, list):
        kind, *items = known
        return kind(map(_made, items))
    if known is None:
        return None
    shape, stride, dtype = known
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
