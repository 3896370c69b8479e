"""Attention on copies, and rotary positions in fewer steps."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import nn

from segzoo.inference.optimize.attention import Attention, copy_for_attention
from segzoo.inference.optimize.rotary import turn_tokens
from segzoo.inference.optimize.trace import trace_module


def heads(tokens=9, dtype=torch.float64):
    """Queries, keys and values as they come out of one layer."""
    torch.manual_seed(0)
    return torch.randn(2, tokens, 3, 4, 8, dtype=dtype).permute(2, 0, 3, 1, 4).unbind(0)


class Attends(nn.Module):
    """Attention in all ways that a graph may have it."""

    def forward(self, q, k, v, mask):
        attend = F.scaled_dot_product_attention
        plain = attend(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False)
        masked = attend(q, k, v, attn_mask=mask)
        return plain, masked, attend(q, k, v, is_causal=True), attend(q, k, v, scale=2.0)


def test_each_copies_what_it_says_and_gives_the_same():
    graph = trace_module(Attends())
    assert copy_for_attention(graph) == 2
    q, k, v = heads()
    mask = torch.randn(9, 9).double()
    steps = [item for item in graph.modules() if isinstance(item, Attention)]
    assert len(steps) == 2
    for name in steps[0].choices(q):
        for step in steps:
            step.use(name, q)
        for ours, theirs in zip(graph(q, k, v, mask), Attends()(q, k, v, mask), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


class Turns(nn.Module):
    """Turned tokens behind others; ``behind`` is where the turned ones begin."""

    def __init__(self, front, behind, *, half=True, dim=2):
        super().__init__()
        self.front, self.behind, self.half, self.dim = front, behind, half, dim

    def forward(self, x, other, places):
        turned = apply_rot_embed_cat(x[:, :, self.behind :, :], places, half=self.half)
        return torch.cat([other[:, :, : self.front, :], turned], dim=self.dim), x + other


class Same(Turns):
    def forward(self, x, other, places):
        return super().forward(x, x, places)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_are_turned_in_fewer_steps(prefix):
    model = Same(prefix, prefix)
    graph = trace_module(model)
    assert turn_tokens(graph) == 1
    x, *_ = heads()
    for shape in ((9 - prefix, 16), (4, 9 - prefix, 16), (2, 1, 9 - prefix, 16)):
        for dtype in (torch.float64, torch.float32):  # places may be in another precision
            places = torch.randn(shape, dtype=dtype)
            before = x.clone()
            for ours, theirs in zip(graph(x, x, places), model(x, x, places), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
            assert torch.equal(x, before)  # others may read it


@pytest.mark.parametrize(
    "model",
    [Turns(1, 1), Same(1, 2), Same(1, 1, half=False), Same(1, 1, dim=1)],
    ids=["of another tensor", "a token lost", "neighbours", "another axis"],
)
def test_what_is_not_alike_stays(model):
    graph = trace_module(model)
    assert isinstance(graph, torch.fx.GraphModule)
    assert turn_tokens(graph) == 0


@torch.no_grad()
def test_a_lower_precision_may_be_computed_in_float32():
    q, k, v = heads(dtype=torch.bfloat16)
    step = Attention()
    assert "float32" in step.choices(q)
    assert "float32" not in step.choices(q.float())
    step.use("float32", q)
    allowed = torch.ones(9, 9, dtype=torch.bool).tril()
    for mask in (None, allowed, torch.randn(9, 9).bfloat16()):
        wide = mask.double() if mask is not None and mask.is_floating_point() else mask
        exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=wide)
        out = step(q, k, v, mask)
        assert out.dtype is torch.bfloat16
        torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-5)
