"""Passes that change each graph of a body by itself, and what they tell about it."""

from __future__ import annotations

from collections.abc import Callable

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


def fold(body: Body) -> str:
    """Batch norms into the convolutions before them; what it did, or nothing."""
    count = sum(fold_batchnorm(graph) for graph in body.graphs())
    return f"{count} folded in float64" if count else ""


def _fuse(body: Body) -> str:
    count = sum(fuse_epilogues(graph) for graph in body.graphs())
    pools = sum(pool_after_relu(graph) for graph in body.graphs())
    found = [f"{count} convolutions with what follows them"] if count else []
    return ", ".join([*found, *([f"{pools} poolings after a ReLU"] if pools else [])])


def _split(body: Body) -> str:
    count = sum(split_dilated(graph) for graph in body.graphs())
    return f"{count} dilated convolutions may be plain ones of the map's phases" if count else ""


def _read(body: Body) -> str:
    count = sum(read_masks(graph) for graph in body.graphs())
    return f"{count} maps that queries read, never there as a whole" if count else ""


def _fuse_linears(body: Body) -> str:
    count = sum(fuse_linears(graph) for graph in body.graphs())
    return f"{count} with what follows them" if count else ""


def _turn(body: Body) -> str:
    count = sum(turn_tokens(graph) for graph in body.graphs())
    return f"{count} rotary positions in fewer steps" if count else ""


def _copy(body: Body) -> str:
    count = sum(copy_for_attention(graph) for graph in body.graphs())
    return f"{count} may read queries, keys and values side by side" if count else ""


def join(body: Body) -> str:
    """The head into the convolution before it; what it did, or nothing."""
    count = sum(join_head(graph) for graph in body.graphs())
    return "the head with the convolution before it" if count else ""


#: Those that put what has several implementations into a graph, by name, in their order.
FUSING: dict[str, Callable[[Body], str]] = {
    "fuse epilogues": _fuse,
    "split dilated": _split,
    "read in strips": _read,
    "fuse linear layers": _fuse_linears,
    "turn tokens": _turn,
    "copy for attention": _copy,
}
