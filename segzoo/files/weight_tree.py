"""What a checkpoint holds, as one level: every tensor by the path of names that leads to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .. import checks
from ..errors import ConversionError
from .inert import Inert, Name
from .stored import Stored, in_memory

#: Far above any model and its optimiser; a name of a layer is never as long.
_MAX_TENSORS, _MAX_VISITS, _MAX_DEPTH, _MAX_NAME = 2**17, 1_000_000, 64, 512
#: Items of containers that are looked at; one list may be held a million times.
_MAX_ITEMS = 4_000_000


@dataclass
class Tree:
    """A checkpoint's leaves by their path, names of dicts and modules joined by dots.

    Attributes:
        tensors: Those that are tensors.
        others: Those that are not: a name of what they are.
        dicts: The paths of dicts and modules, each with a dot behind it; "" is the outermost.
        objects: What pickled objects without tensors are called.
    """

    tensors: dict[str, Stored] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    dicts: set[str] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)


def tree_of(loaded: Any, where: str) -> Tree:
    """All tensors in containers and pickled modules, whatever is around them.

    Args:
        loaded: Containers and tensors, as a file or a person gives them.
        where: For messages.

    Raises:
        ConversionError: It is larger than a checkpoint can be, or a name cannot be a layer's.
    """
    tree = Tree()
    visits, seen, looked_at = 0, set[int](), 0
    # Places still to be looked at, last first, so that names come in the order of the file.
    waiting: list[tuple[str, Any, int]] = [("", loaded, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        visits += 1
        looked_at += _size(value)
        if (
            max(visits, len(waiting)) > _MAX_VISITS
            or looked_at > _MAX_ITEMS
            or depth > _MAX_DEPTH
            or len(tree.tensors) > _MAX_TENSORS
        ):
            raise ConversionError(
                f"{where} holds more than a checkpoint can: {_MAX_TENSORS} tensors, {_MAX_DEPTH} "
                "levels of containers."
            )
        if isinstance(value, (Stored, Tensor)):
            _add_tensor(tree, path, value, where)
            continue
        if isinstance(value, Inert):
            tree.objects.add(checks.shown(str(value))[1:-1])
            if not _is_module(value):  # objects refer to each other in circles
                if id(value) in seen:
                    continue
                seen.add(id(value))
        inner = _inner(value)
        if inner is not None:
            if isinstance(value, Mapping) or _is_module(value):
                tree.dicts.add(f"{path}." if path else "")
            waiting += [
                (f"{path}.{name}" if path else name, item, depth + 1)
                for name, item in reversed(list(inner))
                if _is_short(path, name, item, where)
            ]
        elif path:
            tree.others[path] = _called(value)
    return tree


def _add_tensor(tree: Tree, path: str, value: Any, where: str) -> None:
    if path in tree.tensors:
        raise ConversionError(f"{where} has two tensors of the name {checks.shown(path)}.")
    if isinstance(value, Tensor):
        try:
            value = in_memory(value, path)
        except ValueError as error:
            raise ConversionError(f"{where}: {error}.") from error
    tree.tensors[path or "tensor"] = value


def _is_short(path: str, name: str, item: Any, where: str) -> bool:
    """Whether a name is short enough to be looked behind; a tensor's has to be."""
    length = len(path) + 1 + len(name)
    if length > _MAX_NAME and isinstance(item, (Stored, Tensor)):
        raise ConversionError(
            f"{where} has a tensor with a name of {length} characters, which no layer has: "
            f"{checks.shown(name)}."
        )
    return length <= _MAX_NAME


def _size(value: Any) -> int:
    """How many items of a container are looked at to find what lies in it."""
    if isinstance(value, Inert):
        parts = value.state.values() if _is_module(value) else (value.state, value.items)
        return sum(len(part) for part in parts if isinstance(part, dict))
    return len(value) if isinstance(value, (Mapping, list, tuple)) else 0


def _inner(value: Any) -> Iterator[tuple[str, Any]] | None:
    """What a container holds, by names; None for what is none."""
    if _is_module(value):
        return _of_module(value.state)
    if isinstance(value, Inert):
        inside = value.state if isinstance(value.state, dict) else value.items
        return _named(inside) if inside else None
    if isinstance(value, nn.Module):
        return iter(value.state_dict().items())
    if isinstance(value, Mapping):
        return _named(value)
    if isinstance(value, (list, tuple)):
        kinds = (Stored, Tensor, Mapping, list, tuple, Inert, nn.Module)
        return ((str(i), item) for i, item in enumerate(value) if isinstance(item, kinds))
    return None


def _named(values: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in values.items():
        if isinstance(key, str):
            yield key, item
        elif isinstance(key, int) and abs(key) < 2**63:
            yield str(key), item


def _is_module(value: Any) -> bool:
    """Whether a record is of a module that was pickled whole."""
    return (
        isinstance(value, Inert)
        and isinstance(value.state, dict)
        and isinstance(value.state.get("_modules"), dict)
        and isinstance(value.state.get("_parameters"), dict)
    )


def _of_module(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the state dict of a pickled module would hold: no class of it is needed to know that."""
    volatile = state.get("_non_persistent_buffers_set")
    for part in ("_parameters", "_buffers", "_modules"):
        inside = state.get(part)
        for name, item in inside.items() if isinstance(inside, dict) else ():
            hidden = part == "_buffers" and isinstance(volatile, set) and name in volatile
            if isinstance(name, str) and item is not None and not hidden:
                yield name, item


def _called(value: Any) -> str:
    """What a value is, in a word."""
    if isinstance(value, (Inert, Name)):
        return str(value)[:80]
    return type(value).__name__
