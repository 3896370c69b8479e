"""Linear layers and what follows them become one step of the graph.

A factor for each output, which transformers have behind attention and perceptron (Touvron et al.,
"Going deeper with Image Transformers", 2021, section 2: LayerScale), goes into the weights, in
double precision; an activation or the addition to the residual becomes part of the step.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .fuse_epilogues import gelu, is_addition, may_move, only_user, replace_step
from .fused_linear import FusedLinear
from .trace import constant, module_at, simplify

_PRODUCTS = frozenset({operator.mul, operator.imul, torch.mul, "mul", "mul_"})


def fuse_linears(graph: fx.GraphModule) -> int:
    """Replace each linear layer, a factor, an activation and an addition after it, in place.

    Returns:
        How many linear layers there were.
    """
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    fused = 0
    for node in list(graph.graph.nodes):
        layer = module_at(graph, node)
        if type(layer) is not nn.Linear or len(node.args) != 1 or node.kwargs:
            continue
        weight: Tensor = layer.weight.detach()
        bias: Tensor | None = layer.bias
        last, following = node, only_user(node)
        factor = None if following is None else _factor(graph, following, node, len(weight))
        if factor is not None and following is not None:
            weight, bias = _scaled(weight, factor), None if bias is None else _scaled(bias, factor)
            last, following = following, only_user(following)
        act = _activation(graph, following)
        added = following is not None and not act and is_addition(following)
        other = _beside(following, last) if added and following is not None else None
        # An addend that is computed later is not there when this one runs.
        adds = isinstance(other, fx.Node) and order[other] < order[node]
        if following is not None and (act or adds) and may_move(graph, node, following):
            last = following
        else:
            act, adds = None, False
        module = FusedLinear(weight, bias, act=act or "none", adds=adds)
        inputs = (node.args[0], other) if adds else (node.args[0],)
        order[replace_step(graph, node, last, module, inputs)] = order[last]
        fused += 1
    simplify(graph)
    return fused


def _scaled(values: Tensor, factor: Tensor) -> Tensor:
    """Weights or bias with a factor for each output: one rounding."""
    column = factor.double().reshape(-1, *[1] * (values.ndim - 1))
    return (values.detach().double() * column).to(values.dtype)


def _factor(graph: fx.GraphModule, step: fx.Node, node: fx.Node, outputs: int) -> Tensor | None:
    """The constants that a step multiplies each output with, or None."""
    if step.op not in ("call_function", "call_method") or step.target not in _PRODUCTS:
        return None
    other = _beside(step, node)
    value = constant(graph, other)
    return value if value is not None and value.shape == (outputs,) else None


def _beside(step: fx.Node, node: fx.Node) -> Any:
    """The other argument of a product or an addition of two, or None."""
    if len(step.args) != 2 or step.kwargs or not (is_addition(step) or step.target in _PRODUCTS):
        return None
    left, right = step.args
    return right if left is node else left


def _activation(graph: fx.GraphModule, step: fx.Node | None) -> str | None:
    """The name of the activation that a step is, or None."""
    if step is None:
        return None
    if step.op == "call_module":
        act = module_at(graph, step)
        if type(act) is nn.GELU:
            return gelu(act.approximate)
        return "relu" if type(act) is nn.ReLU else None
    if step.op == "call_function" and step.target is F.gelu and len(step.args) == 1:
        return gelu(step.kwargs.get("approximate", "none"))
    plain = step.op in ("call_function", "call_method") and len(step.args) == 1
    return "relu" if plain and step.target in (torch.relu, F.relu, "relu") else None
