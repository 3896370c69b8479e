"""Transposed convolutions take in the activation behind them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segzoo._compat import fuses_on_cpu
from segzoo.inference.optimize.fuse_epilogues import fuse_epilogues
from segzoo.inference.optimize.fused_conv import ACTIVATIONS, FusedConv, Geometry
from segzoo.inference.optimize.trace import trace_module


class Doublings(nn.Module):
    """What may follow a transposed convolution, and what makes one stay as it is."""

    def __init__(self):
        super().__init__()
        self.plain = nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1, groups=2, bias=False)
        self.longer = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1)
        self.added = nn.ConvTranspose2d(4, 4, 3, padding=1, dilation=1)
        self.sized = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1)
        self.last = nn.Conv2d(4, 4, 1)
        self.gelu = nn.GELU()

    def forward(self, x):
        x = self.gelu(self.plain(x))
        x = F.gelu(self.grouped(x), approximate="tanh")
        x = F.relu(self.longer(x))  # has more rows than its map and its stride tell
        x = F.relu(self.added(x) + x)  # only the addition could follow, and it is not taken in
        return F.gelu(self.last(self.sized(x, output_size=(64, 48))))


def test_activations_become_part_of_them_and_nothing_else_does():
    torch.manual_seed(0)
    model = Doublings().double().eval()
    graph = trace_module(model)
    assert fuse_epilogues(graph) == 3
    found = {
        str(node.target).removeprefix("fused_"): graph.get_submodule(str(node.target))
        for node in graph.graph.nodes
        if node.op == "call_module"
    }
    kinds = {name: item.act for name, item in found.items() if isinstance(item, FusedConv)}
    assert kinds == {"plain": "gelu", "grouped": "gelu_tanh", "added": "none", "last": "gelu"}
    x = torch.randn(2, 4, 4, 3).double()
    torch.testing.assert_close(graph(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not fuses_on_cpu(), reason="oneDNN has no such operators here")
@pytest.mark.parametrize("act", ["none", "relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("transposed", [True, False])
@torch.no_grad()
def test_onednn_gives_the_same(transposed, act):
    torch.manual_seed(0)
    geometry = Geometry((2, 2), (0, 0), transposed=True) if transposed else Geometry()
    weight = torch.randn(8, 8, 2, 2) if transposed else torch.randn(8, 8, 3, 3)
    plain, packed = (FusedConv(weight, torch.randn(8), geometry, act=act) for _ in range(2))
    packed.bias = plain.bias
    x = torch.randn(2, 8, 7, 5).contiguous(memory_format=torch.channels_last)
    assert "onednn" in packed.choices(x)
    packed.use("onednn", x)
    for image in (x, x[:1, :, :3]):
        torch.testing.assert_close(packed(image), plain(image), rtol=1e-5, atol=1e-5)


def test_activations_write_in_place():
    for act, function in ACTIVATIONS.items():
        x = torch.randn(8)
        assert function(x) is x, act
