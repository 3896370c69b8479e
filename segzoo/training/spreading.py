"""Values with large tensors in them, from the first process to all of them.

As one object they would lie in a GPU's memory as a whole, which may be many times what a model
takes there. So what is small goes first, and large tensors follow one at a time, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .processes import Processes

#: Numbers of a tensor that goes by itself.
LARGE = 2**16


def from_first(processes: Processes, make: Callable[[], Any], *, whole: bool = True) -> Any:
    """What the first process makes, on all of them; an error of it is raised on all of them.

    Args:
        processes: All of them have to call this.
        make: Gives dicts, lists, tuples, tensors on the CPU, and plain values.
        whole: Whether large tensors come along. Else the others get tensors of the meta device in
            the places of those of fractions: shapes without values. Weights are fractions; whole
            numbers are needed everywhere: the state of a generator, where that counts as large.
    """
    if processes.count == 1:
        return make()
    kept: list[Any] = []

    def hollow() -> Any:
        kept.append(make())
        return _mapped(kept[0], lambda large: _hollow(large, whole=whole))

    found = processes.from_first(hollow)
    if processes.first:
        found = kept[0]
    return _mapped(found, lambda large: _sent(large, processes)) if whole else found


def _hollow(value: Tensor, *, whole: bool) -> Tensor:
    """The shape of a tensor, where its values come later or never."""
    stays = not whole and not value.is_floating_point()
    return value if stays else torch.empty_like(value, device="meta")


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with all large tensors changed, in an order that is the same everywhere."""
    if isinstance(value, Tensor):
        return change(value) if value.numel() >= LARGE else value
    if isinstance(value, dict):
        return {name: _mapped(item, change) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(item, change) for item in value])
    return value


def _sent(value: Tensor, processes: Processes) -> Tensor:
    """A tensor of the first process, on the CPU of all of them, lying as it lies there."""
    moved = torch.empty_like(value, device=processes.device)
    if processes.first:
        moved.copy_(value)
    dist.broadcast(moved.as_strided((moved.numel(),), (1,)).view(torch.uint8), src=0)
    return value if processes.first else moved.cpu()
