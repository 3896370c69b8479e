"""Attention on copies of what it reads, or in single precision, where that is quicker.

Queries, keys and values come out of one linear layer, so the rows of a head lie far apart. On a CPU
the blocks of them that are multiplied are read again and again; copied next to each other first,
they are read faster, which may be worth more than the copies. Processors without units for matrices
of bfloat16 may be quicker in float32, copies included, which is no less exact.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .fuse_epilogues import replace_step
from .trace import simplify

#: Implementations by name, and what each copies: queries, keys, values.
_COPIES = {"torch": (False,) * 3, "copied": (True,) * 3, "values copied": (False, False, True)}


class Attention(nn.Module):
    """``scaled_dot_product_attention``, as :attr:`implementation` says.

    Attributes:
        implementation: ``torch``, ``copied``, ``values copied`` or ``float32``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.implementation = "torch"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(N, heads, L, C)`` three times, and what is added to the attention -> the first's."""
        if self.implementation == "float32":
            wide = None if mask is None or mask.dtype is torch.bool else mask.float()
            out = F.scaled_dot_product_attention(
                q.float(), k.float(), v.float(), attn_mask=mask if wide is None else wide
            )
            return out.to(q.dtype)
        copies = zip((q, k, v), _COPIES[self.implementation], strict=True)
        q, k, v = (item.contiguous() if copied else item for item, copied in copies)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def signature(self) -> tuple[object, ...]:
        """What its speed may depend on, besides its inputs."""
        return ("attention",)

    def choices(self, x: Tensor) -> list[str]:
        """The implementations there are for an input, torch's own first."""
        if x.device.type != "cpu":
            return ["torch"]
        lower = x.dtype in (torch.bfloat16, torch.float16)
        first, *others = _COPIES
        return [first, *(["float32"] if lower else []), *others]

    def use(self, implementation: str, x: Tensor) -> None:
        """Compute in that implementation from now on."""
        self.implementation = implementation

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return self.implementation


def copy_for_attention(graph: fx.GraphModule) -> int:
    """Let each attention choose whether it copies, in place; returns how many there are."""
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not F.scaled_dot_product_attention or len(node.args) != 3:
            continue
        others = {name: value for name, value in node.kwargs.items() if name != "attn_mask"}
        if any(others.values()):  # dropout, a causal mask, or a scale of its own
            continue
        mask = node.kwargs.get("attn_mask")
        given = node.args if mask is None else (*node.args, mask)
        replace_step(graph, node, node, Attention(), given)
        count += 1
    simplify(graph)
    return count
