"""What fusing must not do: read a map after it was overwritten, or confuse what stands in two places."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segzoo.inference.optimize.fuse_epilogues import fuse_epilogues
from segzoo.inference.optimize.fuse_linears import fuse_linears
from segzoo.inference.optimize.max_pool import PooledRelu, pool_after_relu
from segzoo.inference.optimize.trace import trace_module
from segzoo.timing import largest_difference


class Overwritten(nn.Module):
    """The input of a layer is changed before the sum that the layer's output goes into."""

    def __init__(self, layer, change):
        super().__init__()
        self.layer, self.relu, self.change = layer, nn.ReLU(inplace=True), change

    def forward(self, x):
        x = x * 1.0
        y = self.layer(x)
        z = self.relu(x) if self.change == "module" else torch.relu_(x)
        return y + z


class Gated(nn.Module):
    """A product of two layers, one of them behind an activation, is no sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(8, 8), nn.Linear(8, 8), nn.GELU()

    def forward(self, x):
        return self.act(self.a(x)) * self.b(x)


class PooledTwice(nn.Module):
    """One pool reads what a ReLU gave, and then something with values below zero."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        return self.pool(F.relu(self.conv(x))) + self.pool(x - 2)


@pytest.mark.parametrize("change", ["module", "function"])
@pytest.mark.parametrize("linear", [False, True])
def test_a_layer_does_not_move_past_a_change_of_its_input(change, linear):
    layer = nn.Linear(8, 8) if linear else nn.Conv2d(8, 8, 1)
    model = Overwritten(layer.double(), change).eval()
    x = torch.randn(2, 5, 8).double() if linear else torch.randn(2, 8, 5, 5).double()
    graph = trace_module(model)
    assert (fuse_linears if linear else fuse_epilogues)(graph) == (1 if linear else 0)
    assert largest_difference(graph(x), model(x)) < 1e-13


def test_a_product_is_no_addition():
    model = Gated().double()
    graph = trace_module(model)
    assert fuse_linears(graph) == 2
    x = torch.randn(2, 5, 8).double()
    assert largest_difference(graph(x), model(x)) < 1e-13


def test_a_pool_in_two_places_is_replaced_where_a_relu_is_before_it():
    model = PooledTwice().eval()
    graph = trace_module(model)
    fuse_epilogues(graph)
    assert pool_after_relu(graph) == 1
    assert sum(isinstance(item, PooledRelu) for item in graph.modules()) == 1
    x = torch.randn(2, 3, 17, 12)
    for step in graph.modules():
        if isinstance(step, PooledRelu):
            step.use("integers", x)  # which is wrong for numbers below zero
    graph, model = graph.to(torch.bfloat16), model.to(torch.bfloat16)
    assert largest_difference(graph(x.bfloat16()), model(x.bfloat16())) < 0.05
