"""1x1 convolutions of maps that were enlarged: computed on the small maps instead.

A 1x1 convolution mixes the channels of each cell, resizing mixes the cells of each channel: as both
are linear, either may come first, and before it is enlarged a map has fewer cells. The weights of a
cell that is resized add up to one, so a bias may pass it too. A 1x1 convolution of maps that are
concatenated or added is a sum of 1x1 convolutions of each, and one of another is a single one:

    W cat(enlarge(A x + a), y) + b  =  enlarge(W1 A x) + (W2 y + b + W1 a)

Such are the ends of the decoders of SegFormer (Xie et al., 2021, figure 2), of the semantic branch
of feature pyramid networks (Kirillov et al., 2019, figure 3) and the fusion blocks of DPT.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ...nn.layers import resize
from .fuse_epilogues import is_addition, only_user
from .fused_conv import Geometry
from .trace import module_at, simplify

#: Interpolations whose weights add up to one, up to roundings, at every cell.
_LINEAR = ("nearest", "nearest-exact", "bilinear")
_POINTWISE = Geometry(padding=(0, 0))


def pointwise_first(graph: fx.GraphModule, maps: list[Tensor], image: Tensor) -> int:
    """Move the 1x1 convolutions of a graph before resizes, where that is less work; in place.

    Args:
        graph: The decoder.
        maps: Inputs of it, of the sizes that matter most: what enlarges a map is seen on them.
        image: The image that the maps came from.

    Returns:
        How many were moved.
    """
    ShapeProp(graph).propagate(maps, image)
    for node in list(graph.graph.nodes):
        _linear_as_conv(graph, node)
    moved = 0
    for node in reversed(list(graph.graph.nodes)):  # the last of several in a row takes all in
        if node in set(graph.graph.nodes) and _Mover(graph, node).move():
            graph.graph.eliminate_dead_code()  # what it took in has other users no longer
            moved += 1
    simplify(graph)
    return moved


@dataclass(frozen=True)
class _Product:
    """A weight times a map, which may be resized before: ``weight @ resized(source)``."""

    source: fx.Node
    weight: Tensor
    resized: fx.Node | None = None


@dataclass(frozen=True)
class _Enlarged:
    """A sum of products that a step then enlarges."""

    terms: tuple[_Term, ...]
    step: fx.Node


_Term: TypeAlias = "_Product | _Enlarged"


class _Mover:
    """One 1x1 convolution of a graph, taken apart and put together again."""

    def __init__(self, graph: fx.GraphModule, node: fx.Node) -> None:
        self.graph = graph
        self.node = node
        self.count = 0

    def move(self) -> bool:
        """Whether something was moved; if not, the graph is as it was."""
        conv = pointwise(self.graph, self.node)
        if conv is None:
            return False
        weight = conv.weight.double().flatten(1)
        self.bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
        self.like = conv.weight
        source: Any = self.node.args[0]
        terms = self._terms(source, weight)
        if not any(isinstance(term, _Enlarged) for term in terms):
            return False
        with self.graph.graph.inserting_before(self.node):
            made = self._sum(terms, self.bias)
        self.node.replace_all_uses_with(made)
        self.graph.graph.erase_node(self.node)
        return True

    def _terms(self, node: fx.Node, weight: Tensor) -> tuple[_Term, ...]:
        """``weight @ node`` as a sum, whose constant goes to the bias.

        Taken apart is what nobody else uses, and where something comes to be computed on a smaller
        map; everything else is one product.
        """
        whole = (_Product(node, weight),)
        if only_user(node) is None:
            return whole
        if is_join(node):
            parts: Any = node.args[0]
            pieces = weight.split([shape_of(part)[1] for part in parts], dim=1)
            return self._parts(zip(parts, pieces, strict=True)) or whole
        if is_addition(node) and same_shape(node, *node.args):
            return self._parts((item, weight) for item in node.args) or whole
        if _is_resize(node):
            return self._resized(node, weight) or whole
        conv = pointwise(self.graph, node)
        if conv is not None and len(weight) <= conv.out_channels:
            return self._terms(*self._merged(node, conv, weight))
        return whole

    def _parts(self, pairs: Any) -> tuple[_Term, ...]:
        """The terms of each part; none where nothing would be gained."""
        before = self.bias
        found = [self._terms(node, weight) for node, weight in pairs]
        terms = tuple(term for some in found for term in some)
        if any(isinstance(term, _Enlarged) for term in terms):
            return terms
        self.bias = before
        return ()

    def _resized(self, node: fx.Node, weight: Tensor) -> tuple[_Term, ...]:
        """What a resize is of, multiplied before, or what that was multiplied with after it."""
        x: Any = node.args[0]
        if math.prod(shape_of(node)[2:]) > math.prod(shape_of(x)[2:]):
            if len(weight) > shape_of(x)[1]:
                return ()  # there would be more channels to resize
            return (_Enlarged(self._terms(x, weight), node),)
        conv = pointwise(self.graph, x) if only_user(x) is not None else None
        if conv is None or len(weight) > conv.out_channels:
            return ()
        source, joined = self._merged(x, conv, weight)
        return (_Product(source, joined, resized=node),)

    def _merged(self, node: fx.Node, conv: nn.Conv2d, weight: Tensor) -> tuple[fx.Node, Tensor]:
        """The input of a 1x1 convolution, and one weight for both; its bias joins the other's."""
        if conv.bias is not None:
            self.bias = self.bias + weight @ conv.bias.double()
        source: Any = node.args[0]
        return source, weight @ conv.weight.double().flatten(1)

    def _sum(self, terms: Sequence[_Term], bias: Tensor | None) -> fx.Node:
        """The step that gives the sum of some terms and a bias."""
        enlarged = [term for term in terms if isinstance(term, _Enlarged)]
        products = [term for term in terms if isinstance(term, _Product)]
        # The bias goes through one of the resizes where there is nothing else to add it to.
        rest = None if products else bias
        steps = [
            self._like(term.step, self._sum(term.terms, rest if i == 0 else None))
            for i, term in enumerate(enlarged)
        ]
        below = functools.reduce(self._add, steps) if steps else None
        if not products:
            assert below is not None  # of no terms there is no sum
            return below
        own = self._product(products, bias)
        # Behind what it is added to: so the convolution can add it by itself.
        return own if below is None else self._add(own, below)

    def _product(self, products: Sequence[_Product], bias: Tensor | None) -> fx.Node:
        """One convolution of all maps of one size."""
        maps = [
            item.source if item.resized is None else self._like(item.resized, item.source)
            for item in products
        ]
        x = maps[0]
        if len(maps) > 1:
            x = self.graph.graph.call_function(torch.cat, (maps,), {"dim": 1})
        weight = torch.cat([item.weight for item in products], dim=1)[..., None, None]
        module = _conv(weight.to(self.like), None if bias is None else bias.to(self.like))
        self.count += 1
        name = f"moved_{str(self.node.target).replace('.', '_')}_{self.count}"
        self.graph.add_submodule(name, module)
        return self.graph.graph.call_module(name, (x,))

    def _like(self, step: fx.Node, x: fx.Node) -> fx.Node:
        """The same resize of another map."""
        assert callable(step.target)
        return self.graph.graph.call_function(step.target, (x, *step.args[1:]), step.kwargs)

    def _add(self, left: fx.Node, right: fx.Node) -> fx.Node:
        return self.graph.graph.call_function(operator.add, (left, right))


def _conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1x1 convolution of that weight and bias."""
    outputs, inputs = weight.shape[:2]
    conv = nn.Conv2d(inputs, outputs, 1, bias=bias is not None, device="meta")
    conv.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv.eval()


def _linear_as_conv(graph: fx.GraphModule, node: fx.Node) -> None:
    """Make a linear layer on the cells of a map, brought into a row for it, a 1x1 convolution."""
    linear = module_at(graph, node)
    if type(linear) is not nn.Linear:
        return
    turned: Any = node.args[0]
    back = only_user(node)
    last = only_user(back) if back is not None else None
    if last is None or back is None or not _is_transpose(turned) or not _is_transpose(back):
        return
    flat: Any = turned.args[0]
    if (flat.op, flat.target, flat.args[1:]) != ("call_method", "flatten", (2,)):
        return
    x = flat.args[0]
    if (last.op, last.target) != ("call_method", "unflatten") or last.args[1] != 2:
        return
    if len(shape_of(x)) != 4 or shape_of(x)[2:] != shape_of(last)[2:]:
        return
    name = f"conv_{str(node.target).replace('.', '_')}"
    graph.add_submodule(
        name, _conv(linear.weight.detach()[..., None, None], _detached(linear.bias))
    )
    with graph.graph.inserting_before(last):
        made = graph.graph.call_module(name, (x,))
    made.meta = dict(last.meta)
    last.replace_all_uses_with(made)
    for step in (last, back, node):
        graph.graph.erase_node(step)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _is_transpose(node: object) -> bool:
    """Whether a step swaps channels and cells."""
    return (
        isinstance(node, fx.Node)
        and (node.op, node.target) == ("call_method", "transpose")
        and node.args[1:] == (1, 2)
    )


def pointwise(graph: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    """The 1x1 convolution that a step is, or None."""
    conv = module_at(graph, node)
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1):
        return None
    return conv if Geometry.of(conv) == _POINTWISE else None


def is_join(node: fx.Node) -> bool:
    """Whether a step concatenates channels of maps."""
    if node.op != "call_function" or node.target is not torch.cat:
        return False
    dim: Any = node.kwargs.get("dim", *node.args[1:])
    return bool(dim == 1) and isinstance(node.args[0], (list, tuple))


def _is_resize(node: fx.Node) -> bool:
    """Whether a step resizes a map, each cell being a mean of some."""
    return (
        node.target in (resize, F.interpolate)
        and node.kwargs.get("mode") in _LINEAR
        and len(shape_of(node)) == 4
    )


def same_shape(*nodes: Any) -> bool:
    """Whether steps gave tensors of one shape in the one run."""
    return len({shape_of(node) for node in nodes}) == 1


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of what a step gave in the one run, or nothing where that is no tensor."""
    meta = getattr(node, "meta", {})
    return tuple(getattr(meta.get("tensor_meta"), "shape", ()))
