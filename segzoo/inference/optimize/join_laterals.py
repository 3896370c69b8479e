"""The last step of a feature pyramid without its map: what is doubled and what is added, joined.

A pyramid's level is the level below, doubled, plus a 1x1 convolution of the encoder's map (Lin et
al., 2017, figure 3). Where only a 3x3 convolution uses it, that convolution can be of both, and the
1x1 convolution is part of its weights:

    W (double(x) + A y + a)  =  [W, W A] cat(double(x + a), y)

The bias goes in before the map is doubled, so that at the borders it is zero where the level was.
The right side is what :func:`~segzoo.inference.optimize.rewrite_decoder.rewrite_decoder` computes
without the doubled map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from .fuse_epilogues import is_addition, only_user
from .pointwise_first import pointwise, same_shape
from .rewrite_decoder import plain_3x3, repeats
from .trace import module_at, simplify

#: The encoder's map joins the 3x3 convolution with all its channels: they must be fewer than those
#: of the level by this factor.
_FEWER = 3


def join_laterals(graph: fx.GraphModule, maps: list[Tensor], image: Tensor) -> int:
    """Join the levels of a pyramid that one 3x3 convolution uses with it, in place.

    Args:
        graph: The decoder.
        maps: Inputs of it, of any size: one run tells how many channels each step has.
        image: The image that the maps came from.

    Returns:
        How many were joined.
    """
    ShapeProp(graph).propagate(maps, image)
    joined = 0
    for node in list(graph.graph.nodes):
        found = _match(graph, node)
        if found is not None:
            _join(graph, node, found)
            joined += 1
    simplify(graph)
    return joined


@dataclass(frozen=True)
class _Level:
    """What a 3x3 convolution is of.

    Attributes:
        conv: The convolution.
        resized: The level below, at the size of this one.
        lateral: The encoder's map, projected.
        project: What projects it.
    """

    conv: nn.Conv2d
    resized: fx.Node
    lateral: fx.Node
    project: nn.Conv2d


def _match(graph: fx.GraphModule, node: fx.Node) -> _Level | None:
    """The steps before a convolution, where they are such a level."""
    conv = plain_3x3(module_at(graph, node))
    if conv is None:
        return None
    source: Any = node.args[0]
    if only_user(source) is None or not is_addition(source):
        return None
    left, right = source.args
    for resized, lateral in ((left, right), (right, left)):
        steps = (resized, lateral)
        if not all(isinstance(step, fx.Node) and only_user(step) is source for step in steps):
            continue
        project = pointwise(graph, lateral)
        if project is None or not repeats(resized) or not same_shape(resized, lateral):
            continue
        if _FEWER * project.in_channels <= project.out_channels:
            return _Level(conv, resized, lateral, project)
    return None


def _join(graph: fx.GraphModule, node: fx.Node, level: _Level) -> None:
    """Put one convolution of both maps where the steps were."""
    conv, project = level.conv, level.project
    above, inner = conv.weight.double(), project.weight.double().flatten(1)
    beside = torch.einsum("ockl,cs->oskl", above, inner)
    weight = torch.cat([above, beside], dim=1).to(conv.weight)
    module = nn.Conv2d(weight.shape[1], len(weight), 3, padding=1, bias=False, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    if conv.bias is not None:
        module.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
    name = f"joined_{str(node.target).replace('.', '_')}"
    graph.add_submodule(name, module)
    below: Any = level.resized.args[0]
    with graph.graph.inserting_before(node):
        if project.bias is not None:
            graph.register_buffer(f"{name}_bias", project.bias.detach()[:, None, None])
            bias = graph.graph.get_attr(f"{name}_bias")
            below = graph.graph.call_function(torch.add, (below, bias))
        resized = graph.graph.node_copy(level.resized)
        resized.args = (below, *level.resized.args[1:])
        parts = [resized, level.lateral.args[0]]
        x = graph.graph.call_function(torch.cat, (parts,), {"dim": 1})
        made = graph.graph.call_module(name, (x,))
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)
