"""Masks read from a map strip by strip, so that the map itself is never there as a whole.

What is in front of EoMT's masks is a convolution, a normalisation of each cell, and a product of
each cell with the queries. All of them look at a cell and its neighbours only. The map is the
largest tensor of the model: done one after the other, they wait for memory, and most of all for new
memory. A strip of rows stays near the processor, and its memory is used again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .fuse_epilogues import may_move, only_user, replace_step
from .fused_conv import FusedConv
from .trace import constant, module_at, simplify

#: Values of the map in a strip: four megabytes in float32. Smaller maps are read at once.
_AT_A_TIME = 1 << 20
#: Rows of a strip at least: those beside it are computed twice.
_FEWEST = 4
_EINSUM = "bqc, bchw -> bqhw"


class MaskReader(nn.Module):
    """``einsum("bqc, bchw -> bqhw", queries, norm(conv(x)))``; on a CPU in strips.

    Args:
        conv: Of stride 1, whose map is as large as its input, without an addition.
        weight: Of the normalisation over channels.
        bias: Of the same, or None.
        eps: Of the same.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: FusedConv, weight: Tensor, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.eps = eps

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        """``(N, C, H, W)`` and ``(N, Q, C')`` -> ``(N, Q, H, W)``."""
        count, _, height, width = x.shape
        rows = max(_AT_A_TIME // (len(self.weight) * width), _FEWEST)
        # A compiler joins steps by itself, and would write out every strip.
        if x.device.type != "cpu" or torch.compiler.is_compiling() or rows >= height:
            cells = self._cells(self.conv(x))
            return torch.einsum(_EINSUM, queries, cells.permute(0, 3, 1, 2))
        out = x.new_empty(count, queries.shape[1], height, width)
        for image, kernels, masks in zip(x, queries, out, strict=True):
            for first in range(0, height, rows):
                strip = self._strip(image[None], first, min(rows, height - first))
                product = kernels @ strip.transpose(0, 1)
                masks[:, first : first + rows] = product.unflatten(1, (-1, width))
        return out

    def _strip(self, x: Tensor, first: int, count: int) -> Tensor:
        """So many rows of one image, cell by cell, ``(count * W, C')``."""
        # What the convolution sees above and below; at the image's ends its own padding follows.
        beyond = self.conv.geometry.padding[0]
        above = min(beyond, first)
        made: Tensor = self.conv(x[:, :, first - above : first + count + beyond])
        return self._cells(made[:, :, above : above + count]).flatten(0, 2)

    def _cells(self, x: Tensor) -> Tensor:
        """``(N, C', H, W)`` -> ``(N, H, W, C')``, normalised."""
        cells = x.permute(0, 2, 3, 1)
        return F.layer_norm(cells, self.weight.shape, self.weight, self.bias, self.eps)


def read_masks(graph: fx.GraphModule) -> int:
    """Replace a convolution, a normalisation and the product with queries, in place.

    Args:
        graph: Its epilogues fused.

    Returns:
        How many were replaced.
    """
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not torch.einsum or node.args[:1] != (_EINSUM,) or len(node.args) != 3:
            continue
        norm = _moved(node.args[2], (0, 3, 1, 2))
        values = None if norm is None else _norm_of(graph, norm)
        first = None if norm is None else _moved(norm.args[0], (0, 2, 3, 1))
        conv = module_at(graph, first)
        if values is None or first is None or not isinstance(conv, FusedConv):
            continue
        if _keeps_size(conv) and only_user(first) is not None and may_move(graph, first, node):
            reader = MaskReader(conv, *values)
            replace_step(graph, first, node, reader, (first.args[0], node.args[1]))
            count += 1
    simplify(graph)
    return count


def _moved(node: object, axes: tuple[int, ...]) -> fx.Node | None:
    """What a step permutes, if it does it in that order and is used once."""
    if not isinstance(node, fx.Node) or node.target != "permute" or only_user(node) is None:
        return None
    before = node.args[0]
    return before if node.args[1:] == axes and isinstance(before, fx.Node) else None


def _norm_of(graph: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor | None, float] | None:
    """Weight, bias and epsilon of a normalisation of the last axis that is used once, or None."""
    if node.target is not F.layer_norm or only_user(node) is None or len(node.args) != 2:
        return None
    weight, bias = (constant(graph, node.kwargs.get(name)) for name in ("weight", "bias"))
    eps = node.kwargs.get("eps")
    if weight is None or not isinstance(eps, float) or node.args[1] != tuple(weight.shape):
        return None
    return (weight, bias, eps) if weight.ndim == 1 else None


def _keeps_size(conv: FusedConv) -> bool:
    """Whether it gives a cell for each cell, of the cells around it, and adds nothing."""
    g, window = conv.geometry, conv.weight.shape[2:]
    sides = zip(g.padding, g.dilation, window, strict=True)
    kept = all(2 * padding == dilation * (side - 1) for padding, dilation, side in sides)
    return kept and g.stride == (1, 1) and not g.transposed and not conv.adds
