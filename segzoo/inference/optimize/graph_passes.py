"""Passes that change each graph of a body by itself, and what they tell about it."""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import GraphModule

from .attention import copy_for_attention
from .dilated_conv import split_dilated
from .fold_batchnorm import fold_batchnorm
from .fuse_epilogues import fuse_epilogues
from .fuse_head import join_head
from .fuse_linears import fuse_linears
from .max_pool import pool_after_relu
from .read_masks import read_masks
from .rotary import turn_tokens
from .trace import Body


def _fuse(body: Body) -> str:
    count = sum(fuse_epilogues(graph) for graph in body.graphs())
    pools = sum(pool_after_relu(graph) for graph in body.graphs())
    found = [f"{count} convolutions with what follows them"] if count else []
    return ", ".join([*found, *([f"{pools} poolings after a ReLU"] if pools else [])])


def _counted(change: Callable[[GraphModule], int], told: str) -> Callable[[Body], str]:
    """A pass that changes each graph, and tells how many places it found."""

    def run(body: Body) -> str:
        count = sum(change(graph) for graph in body.graphs())
        return f"{count} {told}" if count else ""

    return run


def join(body: Body) -> str:
    """The head into the convolution before it; what it did, or nothing."""
    count = sum(join_head(graph) for graph in body.graphs())
    return "the head with the convolution before it" if count else ""


#: Those that put what has several implementations into a graph, by name, in their order.
FUSING: dict[str, Callable[[Body], str]] = {
    "fuse epilogues": _fuse,
    "split dilated": _counted(
        split_dilated, "dilated convolutions may be plain ones of the map's phases"
    ),
    "read in strips": _counted(read_masks, "maps that queries read, never there as a whole"),
    "fuse linear layers": _counted(fuse_linears, "with what follows them"),
    "turn tokens": _counted(turn_tokens, "rotary positions in fewer steps"),
    "copy for attention": _counted(
        copy_for_attention, "may read queries, keys and values side by side"
    ),
}
#: Batch norms into the convolutions before them.
fold = _counted(fold_batchnorm, "folded in float64")
