"""A sum takes the place of what it adds only where nobody reads that afterwards."""

import pytest
import torch
from torch import nn

import segzoo
from segzoo import _compat
from segzoo.inference.optimize.doubled_conv import DoubledConv
from segzoo.inference.optimize.fuse_epilogues import fuse_epilogues
from segzoo.inference.optimize.fused_conv import FusedConv, Geometry
from segzoo.inference.optimize.overwrite import overwrite_addends
from segzoo.inference.optimize.trace import trace_module
from tests.helpers import randomise


def conv():
    return nn.Conv2d(4, 4, 3, padding=1)


class Steps(nn.Module):
    """Convolutions ``a`` to ``d``, called by a function of the module and the image."""

    def __init__(self, run):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(), conv(), conv(), conv()
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def block(m, x):
    x = m.a(x)
    return torch.relu(m.c(torch.relu(m.b(x))) + x)


def of_the_image(m, x):
    return m.b(m.a(x)) + x


def read_later(m, x):
    x = m.a(x)
    return m.d(m.b(x) + x) + m.c(x)


def given_back(m, x):
    x = m.a(x)
    return m.b(x) + x, x


def a_view_is_read_later(m, x):
    x = m.a(x)
    view = x[:, :2]
    return m.c(m.b(x) + x)[:, :2] + view


def of_its_own_input(m, x):
    x = m.a(x)
    return m.b(x) + x


def called_twice(m, x):
    x = m.a(x)
    x = m.b(m.c(x)) + x
    return m.b(m.d(x)) + x


@pytest.mark.parametrize(
    ("run", "count"),
    [
        (block, 1),
        (of_the_image, 0),
        (read_later, 1),  # d(...) + c(x): what c gave is read once
        (given_back, 0),
        (a_view_is_read_later, 0),
        (of_its_own_input, 0),
    ],
)
@torch.no_grad()
def test_who_overwrites(run, count):
    model = Steps(run).eval()
    image = torch.rand(2, 4, 9, 7).contiguous(memory_format=torch.channels_last)
    expected, before = model(image), image.clone()
    graph = trace_module(model).to(memory_format=torch.channels_last)
    fuse_epilogues(graph)
    for step in graph.modules():
        if isinstance(step, FusedConv):
            step.use("onednn", image)
    assert overwrite_addends(graph) == count
    for _ in range(2):
        torch.testing.assert_close(graph(image), expected, rtol=0, atol=1e-5)
    assert torch.equal(image, before)


@torch.no_grad()
def test_a_module_that_is_called_twice():
    model = Steps(called_twice).eval()
    image = torch.rand(1, 4, 9, 7)
    graph = trace_module(model)
    fuse_epilogues(graph)
    overwrite_addends(graph)
    torch.testing.assert_close(graph(image), model(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("act", ["none", "relu"])  # of no other oneDNN has such a step
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("there", [True, False])
def test_the_same_values_whatever_torch_has(act, dtype, there, monkeypatch):
    if not there:
        real = _compat.found
        gone = "_convolution_pointwise_"
        monkeypatch.setattr(
            _compat, "found", lambda owner, name: None if name == gone else real(owner, name)
        )
    step = FusedConv(torch.randn(8, 8, 3, 3), torch.randn(8), Geometry(), act=act, adds=True)
    step = step.to(dtype)
    for size in ((7, 10), (4, 4), (1, 1)):
        x, other = (
            torch.randn(2, 8, *size).to(dtype).contiguous(memory_format=torch.channels_last)
            for _ in range(2)
        )
        step.overwrites = False
        assert ("onednn" in step.choices(x)) == _compat.computes_on_cpu(dtype)
        if not _compat.computes_on_cpu(dtype):  # bfloat16 on a processor without it
            continue
        step.use("onednn", x)
        expected = step(x, other.clone())
        step.overwrites = True
        # In bfloat16 the sum may be rounded once more on its way.
        bound = 1e-6 if dtype is torch.float32 else 0.02
        gap = (step(x, other) - expected).abs().max() / expected.abs().max()
        assert gap <= bound


def test_choosing_runs_a_step_that_overwrites_many_times():
    """The timing of an addition must not change what it adds, nor refuse it for that."""
    model = segzoo.Unet("test_resnet", classes=3, decoder_channels=(32, 16, 8, 8, 8))
    randomise(model)
    model.eval()
    fast = segzoo.optimize(model, example=torch.rand(1, 3, 32, 32), backend="eager")
    blocks = [item for item in fast.modules() if isinstance(item, DoubledConv)]
    beside = [block.implementations["beside"] for block in blocks[:-1]]
    assert all(conv.overwrites for conv in beside)
    assert {conv.kernel for conv in beside} == {"onednn"}
    assert "additions in place of what they add" in fast.report()
    image = torch.rand(2, 3, 64, 33)
    with torch.no_grad():
        expected = model(image)
        for _ in range(2):
            gap = (fast(image) - expected).abs().max() / expected.abs().max()
            assert gap < 1e-5
