"""Windows of integers have the maximum of the windows of numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from segzoo.inference.optimize import max_pool
from segzoo.inference.optimize.fuse_epilogues import fuse_epilogues
from segzoo.inference.optimize.max_pool import PooledRelu, pool_after_relu
from segzoo.inference.optimize.trace import trace_module

HALVES = (torch.bfloat16, torch.float16)


def in_integers(x):
    pool = PooledRelu()
    assert pool.choices(x) == ["plain", "integers"]
    pool.use("integers", x)
    return pool(x)


def image(*shape, dtype):
    return torch.randn(shape).relu().to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 9), (8, 6), (17, 30), (33, 31)])
def test_any_size(size, dtype, monkeypatch):
    x = image(2, 5, *size, dtype=dtype)
    expected = F.max_pool2d(x, 3, 2, padding=1)
    for strip in (1 << 20, 1, 1500):
        monkeypatch.setattr(max_pool, "_BYTES", strip)
        out = in_integers(x)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_nan_of_either_sign_infinity_and_negative_zero(dtype):
    x = image(1, 3, 24, 20, dtype=dtype)
    special = torch.tensor([torch.nan, torch.nan, torch.inf, -0.0, 0.0], dtype=dtype)
    special.view(torch.int16)[1] |= -0x8000  # the sign, which makes it less than all numbers
    places = torch.arange(0, x.numel(), 37)
    x.permute(0, 2, 3, 1).reshape(-1)[places] = special.repeat(len(places))[: len(places)]
    expected = F.max_pool2d(x, 3, 2, padding=1)
    assert expected.isnan().any()
    assert expected.isfinite().any()
    before = x.clone()
    torch.testing.assert_close(in_integers(x), expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(x.view(torch.int16), before.view(torch.int16))  # the map is another's too


def test_only_where_it_is_known_to_hold():
    pool = PooledRelu()
    assert pool.choices(image(1, 4, 8, 8, dtype=torch.float32)) == ["plain"]
    assert pool.choices(torch.rand(1, 4, 8, 8).bfloat16()) == ["plain"]  # plane by plane


class Pools(nn.Module):
    def __init__(self, pool, relu):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 8, 3), relu, pool

    def forward(self, x):
        return self.pool(self.relu(self.conv(x)))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("pool", "relu", "count"),
    [
        (nn.MaxPool2d(3, 2, 1), nn.ReLU(), 1),
        (nn.MaxPool2d((3, 3), (2, 2), (1, 1)), nn.ReLU(), 1),
        (nn.MaxPool2d(3, 2, 1), nn.SiLU(), 0),
        (nn.MaxPool2d(2, 2), nn.ReLU(), 0),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.ReLU(), 0),
        (nn.AvgPool2d(3, 2, 1), nn.ReLU(), 0),
    ],
)
@torch.no_grad()
def test_what_is_replaced(pool, relu, count, fused):
    model = Pools(pool, relu).eval()
    x = torch.rand(1, 3, 21, 18)
    graph = trace_module(model)
    assert isinstance(graph, fx.GraphModule)
    if fused:
        fuse_epilogues(graph)
    assert pool_after_relu(graph) == count
    assert sum(isinstance(step, PooledRelu) for step in graph.modules()) == count
    torch.testing.assert_close(graph(x), model(x))
