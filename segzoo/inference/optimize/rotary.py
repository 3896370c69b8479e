"""Rotary positions in fewer steps.

Pairs of channels are turned by an angle that depends on the place (Su et al., "RoFormer", 2021,
section 3.4.2). timm makes a tensor with the channels of each pair exchanged, two products, their
sum, and puts the tokens without a place in front again. Here the products go where they belong.
"""

from __future__ import annotations

import operator

import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor, fx, nn

from .fuse_epilogues import only_user, replace_step
from .trace import simplify


class Rotary(nn.Module):
    """``cat((x[:, :, :n], apply_rot_embed_cat(x[:, :, n:], places, half=True)), dim=2)``.

    The channels of a pair are half of all apart. Where they are neighbours nothing would be won.

    Args:
        prefix: ``n``, how many tokens are in no place.
    """

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """``(N, heads, L, C)`` and sines and cosines, ``(L - prefix, 2 * C)`` -> the former."""
        alone, rest = x[:, :, : self.prefix], x[:, :, self.prefix :]
        # In another precision timm's products are in the finer of both; a compiler joins them.
        if places.dtype is not x.dtype or torch.compiler.is_compiling():
            return torch.cat((alone, apply_rot_embed_cat(rest, places, half=True)), dim=2)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        out[:, :, : self.prefix] = alone
        sines, cosines = places.chunk(2, -1)
        (a, b), (sin_a, sin_b), (cos_a, cos_b), (out_a, out_b) = (
            item.chunk(2, -1) for item in (rest, sines, cosines, out[:, :, self.prefix :])
        )
        torch.mul(a, cos_a, out=out_a).addcmul_(b, sin_a, value=-1)
        torch.mul(b, cos_b, out=out_b).addcmul_(a, sin_b)
        return out

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"prefix={self.prefix}"


def turn_tokens(graph: fx.GraphModule) -> int:
    """Replace what turns tokens, and puts others in front of them, in place.

    Returns:
        How many were replaced.
    """
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not apply_rot_embed_cat or dict(node.kwargs) != {"half": True}:
            continue
        joined = only_user(node)
        found = None if joined is None else _untouched(node, joined)
        if joined is None or found is None:
            continue
        x, prefix = found
        replace_step(graph, node, joined, Rotary(prefix), (x, node.args[1]))
        count += 1
    simplify(graph)
    return count


def _untouched(turned: fx.Node, joined: fx.Node) -> tuple[fx.Node, int] | None:
    """Of which tensor the others are turned, and how many tokens of it are put in front of them."""
    if joined.target is not torch.cat or dict(joined.kwargs) != {"dim": 2}:
        return None
    parts, every = joined.args[0], slice(None)
    if not isinstance(parts, list) or len(parts) != 2 or parts[1] is not turned:
        return None
    steps = (parts[0], turned.args[0])
    if not all(isinstance(step, fx.Node) and step.target is operator.getitem for step in steps):
        return None
    (x, front), (same, behind) = (step.args for step in steps)
    if x is not same or not isinstance(front, tuple) or len(front) != 4:
        return None
    count = getattr(front[2], "stop", None)
    wanted = [(every, every, part, every) for part in (slice(count), slice(count, None))]
    return (x, count) if isinstance(count, int) and [front, behind] == wanted else None
