"""A dilated 3x3 convolution as a plain one of the map's phases, which has faster algorithms.

A convolution of dilation ``d`` joins cells that are ``d`` apart, so it never mixes the ``d * d``
maps that every ``d``-th row and column make. Each of them, an image of its own in the batch, gets a
plain convolution with the same weights: the "a trous" algorithm of Holschneider et al., 1989, read
backwards. That costs two copies of the map, and may be computed by Winograd's algorithm.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from ...features import ceil_div
from .fused_conv import FusedConv, Geometry
from .trace import module_at

#: Outputs along a side of a tile, and how many of all cells of tiles there may be for one of a map:
#: where phases are small, most of a tile lies outside.
_TILE, _MOST = 4, 1.5


class DilatedConv(nn.Module):
    """What a :class:`FusedConv` of that geometry gives, as :attr:`implementation` says.

    Args:
        conv: A 3x3 convolution with a dilation ``d`` and a padding of as much, of stride 1.

    Attributes:
        implementation: ``direct``, or ``phases``.
    """

    def __init__(self, conv: FusedConv) -> None:
        super().__init__()
        self.dilation = conv.geometry.dilation
        phases = FusedConv(conv.weight, conv.bias, Geometry(), act=conv.act, adds=conv.adds)
        self.implementations = nn.ModuleDict({"direct": conv, "phases": phases})
        self.implementation = "phases"

    def forward(self, x: Tensor, *other: Tensor) -> Tensor:
        """``(N, C, H, W)`` and, where it adds, a map of the output's shape -> the output."""
        out: Tensor
        if self.implementation == "direct":
            out = self.implementations["direct"](x, *other)
            return out
        inputs = [to_phases(item, self.dilation) for item in (x, *other)]
        out = self.implementations["phases"](*inputs)
        return from_phases(out, self.dilation, x.shape)

    def signature(self) -> tuple[object, ...]:
        """What its speed may depend on, besides its inputs."""
        direct = self.implementations["direct"]
        assert isinstance(direct, FusedConv)
        return ("dilated", *direct.signature())

    def choices(self, x: Tensor) -> list[str]:
        """The implementations there are for an input, the direct one first."""
        phases = self.implementations["phases"]
        assert isinstance(phases, FusedConv)
        faster = any("winograd" in name for name in phases.choices(x))
        return ["direct", "phases"] if faster and _waste(x, self.dilation) <= _MOST else ["direct"]

    def use(self, implementation: str, x: Tensor) -> None:
        """Compute in that implementation from now on; see :meth:`FusedConv.use`."""
        self.implementation = implementation

    def keep(self) -> None:
        """Stay with the implementation that it has, and forget the other one's weights."""
        self.implementations = nn.ModuleDict(
            {self.implementation: self.implementations[self.implementation]}
        )

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return self.implementation


def _waste(x: Tensor, steps: tuple[int, ...]) -> float:
    """How many cells the tiles of all phases have, for each cell of the map."""
    sides = zip(x.shape[2:], steps, strict=True)
    return math.prod(ceil_div(ceil_div(n, d), _TILE) * _TILE * d / n for n, d in sides)


def to_phases(x: Tensor, steps: tuple[int, ...]) -> Tensor:
    """``(N, C, H, W)`` -> ``(N * d * e, C, ceil(H / d), ceil(W / e))``, with zeros at the end.

    They lie cell by cell in memory, as maps do in channels last.
    """
    down, across = steps
    x = F.pad(x, (0, -x.shape[3] % across, 0, -x.shape[2] % down)).permute(0, 2, 3, 1)
    cells: Tensor = x.unflatten(2, (-1, across)).unflatten(1, (-1, down))  # (N, h, d, w, e, C)
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def from_phases(x: Tensor, steps: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """What :func:`to_phases` had, of a map ``(N, *, H, W)`` of that shape."""
    down, across = steps
    count, _, height, width = shape
    cells: Tensor = x.permute(0, 2, 3, 1).unflatten(0, (count, down, across))
    cells = cells.permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2)
    return cells[:, :height, :width].permute(0, 3, 1, 2)


def split_dilated(graph: fx.GraphModule) -> int:
    """Give each dilated 3x3 convolution its other implementation, in place; returns how many."""
    count = 0
    for node in graph.graph.nodes:
        conv: Any = module_at(graph, node)
        if isinstance(conv, FusedConv) and _is_dilated(conv):
            graph.set_submodule(str(node.target), DilatedConv(conv))
            count += 1
    return count


def _is_dilated(conv: FusedConv) -> bool:
    dilation = conv.geometry.dilation
    plain = Geometry(padding=dilation, dilation=dilation)
    return conv.geometry == plain and max(dilation) > 1 and conv.weight.shape[2:] == (3, 3)
