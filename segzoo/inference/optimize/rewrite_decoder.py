"""Double, concatenate, convolve: computed without the doubled map and without the concatenation.

The algebra is in :mod:`segzoo.nn.upsample_conv`. It holds where a map is resized by nearest
neighbours to exactly twice its size, which an odd image does not do at every step: then the plain
form is taken.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ...nn.layers import resize
from ...nn.upsample_conv import DOUBLING
from .doubled_conv import DoubledConv
from .fuse_epilogues import activation, only_user, replace_step
from .fused_conv import FusedConv, Geometry
from .pointwise_first import is_join, shape_of
from .trace import module_at, simplify


def rewrite_decoder(graph: fx.GraphModule, maps: list[Tensor], image: Tensor) -> int:
    """Replace what :class:`DoubledConv` computes, in place.

    Looked for: a resize to a given size that repeats cells where it doubles, alone or concatenated
    before other maps, that only a plain 3x3 convolution uses. The resized map may be multiplied by
    one factor for each channel: that is done before it is resized. What does not look so (another
    interpolation, attention on the concatenation) stays as it is.

    Args:
        graph: The decoder.
        maps: Inputs of it, of any size: one run tells how many channels each step has.
        image: The image that the maps came from.

    Returns:
        How many were replaced.
    """
    ShapeProp(graph).propagate(maps, image)
    replaced = 0
    for node in list(graph.graph.nodes):
        found = _match(graph, node)
        if found is None:
            continue
        resized, conv = found.resized, found.conv
        following = only_user(node)
        act = activation(graph, following)
        last = following if act is not None and following is not None else node
        x, size = resized.args[0], _target(resized)
        if found.factor is not None:
            with graph.graph.inserting_before(node):
                x = graph.graph.call_function(operator.mul, (x, found.factor))
        fused = FusedConv(conv.weight, conv.bias, Geometry(), act=act or "none")
        module = DoubledConv(fused, found.channels, mode=str(resized.kwargs["mode"]))
        skip, *more = found.beside or (None,)
        replace_step(graph, node, last, module, (x, skip, size, *more))
        replaced += 1
    simplify(graph)
    return replaced


@dataclass(frozen=True)
class _Chain:
    """The steps that a :class:`DoubledConv` stands for.

    Attributes:
        resized: What makes the map larger.
        factor: What the larger map is multiplied by, one number for each channel, or None.
        channels: Channels of the larger map.
        beside: Maps that are concatenated after it.
        conv: What uses all of it.
    """

    resized: fx.Node
    factor: fx.Node | None
    channels: int
    beside: tuple[fx.Node, ...]
    conv: nn.Conv2d


def _match(graph: fx.GraphModule, node: fx.Node) -> _Chain | None:
    """The steps before a convolution, where they are such a chain."""
    conv = plain_3x3(module_at(graph, node))
    if conv is None:
        return None
    source: Any = node.args[0]
    if len(source.users) > 1:
        return None
    beside: tuple[fx.Node, ...] = ()
    if is_join(source):
        source, *others = source.args[0]
        beside = tuple(others)
        if len(source.users) > 1:
            return None
    resized, factor = _factored(source)
    if not repeats(resized):
        return None
    return _Chain(resized, factor, shape_of(source)[1], beside, conv)


def plain_3x3(module: nn.Module | None) -> nn.Conv2d | None:
    """The module, where it is a 3x3 convolution with a padding of one and nothing else."""
    if not isinstance(module, nn.Conv2d) or Geometry.of(module) != Geometry():
        return None
    return module if module.kernel_size == (3, 3) else None


def repeats(node: fx.Node) -> bool:
    """Whether a step resizes to a given size, repeating cells where that is twice the map's."""
    return (
        node.target in (resize, F.interpolate)
        and node.kwargs.get("mode") in DOUBLING
        and bool(_target(node))
    )


def _target(resized: fx.Node) -> Any:
    """The size that a step resizes to, if that is what it was given."""
    return resized.args[1] if resized.target is resize else resized.kwargs.get("size")


def _factored(node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The resize and the factor, where a step multiplies each channel of a resized map by one.

    The resized map may have other uses (a gate is made of its means): for these it stays.
    """
    inputs = node.all_input_nodes
    if node.target not in (operator.mul, torch.mul) or node.kwargs or len(inputs) != 2:
        return node, None
    for x, factor in (inputs, reversed(inputs)):
        # A factor of a single cell beside a map of several is one for each channel, and is at every
        # size: else the product would not be defined.
        if repeats(x) and shape_of(x)[-2:] != (1, 1) == shape_of(factor)[-2:]:
            return x, factor
    return node, None
