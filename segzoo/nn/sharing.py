"""One module, several threads: what only reads a module must not change it for the others.

A module's mode, its hooks and its tensors belong to everybody who holds it, even where somebody
sets them for a moment only. So whatever needs another mode, or hooks, works on a copy of the
modules that has the very tensors of the original: no memory for weights, and always the newest.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
import types
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)

#: Held while the mode of a module that cannot be copied is another one.
_SWITCHING = threading.RLock()


class Lock:
    """A lock for a module to hold: a copy of the module, also a pickled one, gets its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()


@contextlib.contextmanager
def in_eval_mode(module: ModuleT) -> Iterator[ModuleT]:
    """The module, if all of it is in eval mode, else a copy on the same tensors that is.

    A module that cannot be copied is switched, and afterwards each of its parts is as it was;
    only then are other threads disturbed.
    """
    if torch.compiler.is_dynamo_compiling():  # it only pretends to switch
        with _switched(module):
            yield module
        return
    with _SWITCHING:  # a mode that is switched for a moment is not its mode
        is_still = not any(part.training for part in module.modules())
    copied = module if is_still else copied_modules(module)
    if copied is None:
        with _SWITCHING, _switched(module):
            yield module
        return
    if not is_still:
        copied.eval()
    yield copied


@contextlib.contextmanager
def _switched(module: nn.Module) -> Iterator[None]:
    """The module itself in eval mode; afterwards each of its parts is as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        module.train(modes[0][1])
        for part, training in modes:
            part.training = training


def copied_modules(module: ModuleT) -> ModuleT | None:
    """A copy of a module and of all modules in it, on the same tensors; None where none works.

    What a module keeps besides tensors is copied. Tensors are copied too where a module does
    something of its own when its mode changes: it may change them (adapters that merge their
    weights). Hooks are shared, unless they belong to what is copied: some of timm's backbones read
    what their hooks collect.
    """
    hooks = [found for part in module.modules() for found in _hooks(part)]
    memo: dict[int, Any] = {id(hook): hook for _, _, hook in hooks}
    memo.update((id(tensor), tensor) for tensor in _tensors_to_share(module))

    def is_copied(held: object) -> bool:
        return memo.get(id(held), held) is not held

    try:
        copied = copy.deepcopy(module, memo)
        for place, key, hook in hooks:
            if any(is_copied(held) for held, _ in _held_by(hook)):
                memo.pop(id(hook), None)
                memo[id(place)][key] = copy.deepcopy(hook, memo)
    except Exception:  # a module may refuse in any way, as those that FSDP has sharded do
        return None
    values = (value for part in copied.modules() for value in vars(part).values())
    for function in (*filter(callable, values), *(hook for _, _, hook in hooks)):
        # deepcopy leaves functions as they are: this one would go on to use the original.
        if any(fixed and is_copied(held) for held, fixed in _held_by(function)):
            return None
    return copied


def collects_by_hooks(module: nn.Module) -> bool:
    """Whether hooks in it may keep what they see: then its calls must not overlap."""
    return any(
        "forward" in name and any(_held_by(hook))
        for part in module.modules()
        for name, place in vars(part).items()
        if isinstance(place, dict)
        for hook in place.values()
    )


def _hooks(part: nn.Module) -> Iterator[tuple[dict[Any, Any], Any, Any]]:
    """Where each hook of a module is kept, under which key, and the hook."""
    for place in vars(part).values():
        if isinstance(place, dict):
            for key, item in place.items():
                if callable(item) and not isinstance(item, (nn.Module, Tensor)):
                    yield place, key, item


def _held_by(item: object) -> Iterator[tuple[object, bool]]:
    """What a callable is bound to, and whether for ever: a function keeps what it closes over."""
    found: list[tuple[object, bool]] = [(item, False)]
    seen: set[int] = set()
    while found:
        held, fixed = found.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if held is not item:
            yield held, fixed
        if isinstance(held, functools.partial):
            inner = [held.func, *held.args, *held.keywords.values()]
        elif isinstance(held, types.MethodType):
            inner = [held.__self__]
        elif isinstance(held, types.FunctionType):
            inner, fixed = list(_enclosed(held)), True
        else:
            continue
        found.extend((each, fixed) for each in inner)


def _enclosed(function: types.FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # one that has nothing in it yet
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _tensors_to_share(module: nn.Module) -> Iterator[Tensor]:
    own = {
        id(tensor)
        for part in module.modules()
        if _minds_its_mode(part)
        for inner in part.modules()
        for tensor in _tensors(inner)
    }
    for part in module.modules():
        yield from (tensor for tensor in _tensors(part) if id(tensor) not in own)


def _tensors(part: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, and other tensors that a module keeps."""
    for value in vars(part).values():
        for item in value.values() if isinstance(value, dict) else (value,):
            if isinstance(item, Tensor):
                yield item


def _minds_its_mode(part: nn.Module) -> bool:
    """Whether a change of its mode may do more than set flags."""
    methods = (type(part).train, type(part).eval)
    return any(method.__module__.partition(".")[0] not in ("torch", "segzoo") for method in methods)
