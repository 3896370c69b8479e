"""Double, concatenate, convolve: computed without the doubled map and without the concatenation.

The algebra is in :mod:`segzoo.nn.upsample_conv`. It holds where a map is resized by nearest
neighbours to exactly twice its size, which an odd image does not do at every step: then the plain
way is taken.
"""

from __future__ import annotations

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
from .trace import simplify


def rewrite_decoder(graph: fx.GraphModule, maps: list[Tensor], image: Tensor) -> int:
    """Replace what :class:`DoubledConv` computes, in place.

    Looked for: a resize to a given size that repeats cells where it doubles, alone or concatenated
    before one other map, that only a plain 3x3 convolution uses. What does not look so (another
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
        resized, skip, conv = found
        following = only_user(node)
        act = activation(graph, following)
        last = following if act is not None and following is not None else node
        x, size = resized.args[0], _target(resized)
        channels = resized.meta["tensor_meta"].shape[1]
        fused = FusedConv(conv.weight, conv.bias, Geometry(), act=act or "none")
        module = DoubledConv(fused, channels, mode=str(resized.kwargs["mode"]))
        replace_step(graph, node, last, module, (x, skip, size))
        replaced += 1
    simplify(graph)
    return replaced


def _match(
    graph: fx.GraphModule, node: fx.Node
) -> tuple[fx.Node, fx.Node | None, nn.Conv2d] | None:
    """The resize, the map beside it and the convolution, where a step ends such a chain."""
    conv = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(conv, nn.Conv2d) or Geometry.of(conv) != Geometry():
        return None
    if conv.kernel_size != (3, 3):
        return None
    source: Any = node.args[0]
    if len(source.users) > 1:
        return None
    skip = None
    if source.op == "call_function" and source.target is torch.cat:
        parts = source.args[0]
        if len(parts) != 2 or source.kwargs.get("dim", *source.args[1:]) != 1:
            return None
        source, skip = parts
        if len(source.users) > 1:
            return None
    if source.target not in (resize, F.interpolate) or source.kwargs.get("mode") not in DOUBLING:
        return None
    return (source, skip, conv) if _target(source) else None


def _target(resized: fx.Node) -> Any:
    """The size that a step resizes to, if that is what it was given."""
    return resized.args[1] if resized.target is resize else resized.kwargs.get("size")
