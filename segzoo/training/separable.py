"""Which parts of a model can have their weights put together and let go by themselves.

Nobody lists them: a model is run once on a small image, and it is seen who uses which parameter. A
part can where each of its parameters is used within its own ``forward`` alone; a backbone that
reaches into its blocks rules itself out.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._compat import is_view
from .objective import SIDE, Objective

#: Numbers of a group: with fewer, sending them takes longer than what is saved is worth.
LEAST = 2**20


class _Uses(TorchFunctionMode):
    """Sees which parts have a parameter used while they are not running.

    Args:
        parts: Of each parameter, by its id, the parts that it belongs to.
    """

    def __init__(self, parts: Mapping[int, list[nn.Module]]) -> None:
        super().__init__()
        self.parts = parts
        self.running: Counter[nn.Module] = Counter()
        self.ran: set[nn.Module] = set()
        self.refused: set[nn.Module] = set()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        # Who looks at a shape or a type alone needs no values.
        if isinstance(found, (Tensor, tuple, list)) and not isinstance(found, torch.Size):
            for item in _tensors((*args, *(kwargs or {}).values())):
                for part in self.parts.get(id(item), ()):
                    if not self.running[part]:
                        self.refused.add(part)
        return found

    def enter(self, part: nn.Module, args: Any) -> None:
        """A part begins to run."""
        self.running[part] += 1
        self.ran.add(part)

    def leave(self, part: nn.Module, args: Any, output: Any) -> None:
        """A part has run. What it gives must be no view: torch's hooks get lost on those."""
        self.running[part] -= 1
        if any(map(is_view, _tensors([output]))):
            self.refused.add(part)


def separable_groups(heads: Objective) -> list[nn.Module]:
    """Parts that together have most of the parameters, innermost first, none with too few.

    Args:
        heads: A model as it is called in training. It stays as it is.
    """
    allowed = _separable(heads)
    names = {part: name for name, part in heads.named_modules()}
    taken: set[int] = set()
    found: list[nn.Module] = []
    # Children come before their parents.
    for part in sorted(heads.modules(), key=lambda item: -names[item].count(".")):
        left = [item for item in part.parameters() if id(item) not in taken]
        size = sum(item.numel() for item in left)
        if part is not heads and names[part] in allowed and size >= LEAST:
            found.append(part)
            taken.update(map(id, left))
    return found


def _separable(heads: Objective) -> set[str]:
    """The names of parts whose parameters are used within them alone."""
    tried = copy.deepcopy(heads).cpu().train()
    parts: dict[int, list[nn.Module]] = {}
    for part in tried.modules():
        for item in part.parameters():
            parts.setdefault(id(item), []).append(part)
    uses = _Uses(parts)
    for part in tried.modules():
        part.register_forward_pre_hook(uses.enter)
        part.register_forward_hook(uses.leave)
    kind = next(tried.parameters()).dtype
    image = torch.zeros(2, tried.model.in_channels, SIDE, SIDE, dtype=kind)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), uses:
        tried(image)
    return {name for name, part in tried.named_modules() if part in uses.ran - uses.refused}


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())
