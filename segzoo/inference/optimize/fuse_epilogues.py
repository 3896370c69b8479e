"""Convolutions and what follows them become one step of the graph."""

from __future__ import annotations

import operator
from itertools import dropwhile, takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from .fused_conv import FusedConv, Geometry
from .trace import module_at, simplify

#: What an activation is called in a graph -> its name in FusedConv.
_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.SiLU: "swish",
    nn.Hardswish: "hardswish",
}
_FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((torch.relu, torch.relu_, F.relu, "relu", "relu_"), "relu"),
    F.silu: "swish",
    F.hardswish: "hardswish",
}
#: Functions that write into their first argument; of the others the name ends with ``_``.
_IN_PLACE = frozenset(
    {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem}
)
_ADDITIONS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})


def fuse_epilogues(graph: fx.GraphModule) -> int:
    """Replace each convolution and the addition and activation after it, in place.

    A transposed convolution takes in an activation only.

    Returns:
        How many convolutions took something in.
    """
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    fused = 0
    for node in list(graph.graph.nodes):
        conv = module_at(graph, node)
        if (
            not isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d))
            or len(node.args) != 1
            or node.kwargs
        ):
            continue
        geometry = Geometry.of(conv)
        if geometry is None:
            continue
        last, other = node, None
        following = only_user(last)
        # No library adds behind a transposed convolution.
        if following is not None and is_addition(following) and not geometry.transposed:
            left, right = following.args[:2]
            beside = right if left is node else left
            # The convolution runs where the addition was, so that its addend is there. Of two
            # convolutions that are added the later one takes the other's map.
            if isinstance(beside, fx.Node) and beside is not node:
                later = order[beside] > order[node]
                if not (later and isinstance(module_at(graph, beside), nn.Conv2d)):
                    last, other = following, beside
                    following = only_user(last)
        act = activation(graph, following)
        if act is not None and following is not None:
            last = following
        if not may_move(graph, node, last):
            last, other, act = node, None, None
        module = FusedConv(
            conv.weight, conv.bias, geometry, act=act or "none", adds=other is not None
        )
        fused += last is not node
        inputs = (node.args[0],) if other is None else (node.args[0], other)
        order[replace_step(graph, node, last, module, inputs)] = order[last]
    simplify(graph)
    return fused


def may_move(graph: fx.GraphModule, node: fx.Node, last: fx.Node) -> bool:
    """Whether a step can run where ``last`` is: nothing before that writes into what it reads."""
    steps = node.graph.nodes
    behind = dropwhile(lambda step: step is not node, steps)
    between = takewhile(lambda step: step is not last, behind)
    read = set(node.all_input_nodes)
    return not any(
        step is not node and read.intersection(step.all_input_nodes) and _writes(graph, step)
        for step in between
    )


def _writes(graph: fx.GraphModule, step: fx.Node) -> bool:
    """Whether a step changes what it is given."""
    module = module_at(graph, step)
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = getattr(step.target, "__name__", str(step.target))
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or step.target in _IN_PLACE or step.kwargs.get("inplace") is True


def only_user(node: fx.Node) -> fx.Node | None:
    """The one step that uses a result, or None where it is used more often."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_addition(node: fx.Node) -> bool:
    """Whether a step adds two things, without scaling one of them."""
    return (
        node.op in ("call_function", "call_method")
        and node.target in _ADDITIONS
        and len(node.args) == 2
        and not node.kwargs
    )


def activation(graph: fx.GraphModule, node: fx.Node | None) -> str | None:
    """The name of the activation that a step is, or None."""
    if node is None:
        return None
    module = module_at(graph, node)
    if module is not None:
        return gelu(module.approximate) if type(module) is nn.GELU else _MODULES.get(type(module))
    if node.target is F.gelu and len(node.args) == 1:
        return gelu(node.kwargs.get("approximate", "none"))
    if node.op in ("call_function", "call_method") and len(node.args) == 1:
        return _FUNCTIONS.get(node.target)
    return None


def gelu(approximate: object) -> str:
    """The name of that kind of GELU."""
    return "gelu" if approximate == "none" else "gelu_tanh"


def replace_step(
    graph: fx.GraphModule,
    first: fx.Node,
    last: fx.Node,
    module: nn.Module,
    arguments: tuple[Any, ...],
) -> fx.Node:
    """Put one module where the steps from ``first`` to ``last`` were; ``first`` is a module."""
    name = f"fused_{str(first.target).replace('.', '_')}"
    while hasattr(graph, name):  # a module that is called twice
        name += "_"
    graph.add_submodule(name, module)
    with graph.graph.inserting_after(last):
        step = graph.graph.call_module(name, arguments)
    last.replace_all_uses_with(step)
    graph.graph.erase_node(last)  # the steps before it have no user now: simplify removes them
    return step
