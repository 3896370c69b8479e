"""Dilated convolutions as plain ones of a map's phases: equal at every size, and chosen."""

import pytest
import torch
from torch import nn

import segzoo
from segzoo.inference.optimize.autotune import choose
from segzoo.inference.optimize.dilated_conv import (
    DilatedConv,
    from_phases,
    split_dilated,
    to_phases,
)
from segzoo.inference.optimize.fuse_epilogues import fuse_epilogues
from segzoo.inference.optimize.fused_conv import FusedConv, Geometry
from segzoo.inference.optimize.trace import trace_module
from segzoo.timing import largest_difference
from tests.helpers import ready


def made(channels=8, dilation=(2, 2), **options):
    torch.manual_seed(0)
    weight = torch.randn(channels, channels, 3, 3) / 3
    geometry = Geometry(padding=dilation, dilation=dilation)
    return FusedConv(weight, torch.randn(channels), geometry, **options)


@torch.no_grad()
@pytest.mark.parametrize("dilation", [(2, 2), (4, 4), (3, 1), (12, 12)], ids=str)
@pytest.mark.parametrize("adds", [False, True])
def test_every_size(dilation, adds):
    conv = made(dilation=dilation, act="relu", adds=adds).double()
    step = DilatedConv(conv)
    for size in ((16, 16), (13, 7), (1, 5), (25, 3)):
        maps = [torch.randn(2, 8, *size).double() for _ in range(1 + adds)]
        step.use("direct", maps[0])
        wanted = step(*maps)
        step.use("phases", maps[0])
        assert largest_difference(step(*maps), wanted) < 1e-14
        beside = [item.contiguous(memory_format=torch.channels_last) for item in maps]
        assert largest_difference(step(*beside), wanted) < 1e-14


def test_there_and_back():
    x = torch.randn(2, 3, 7, 10)
    phases = to_phases(x, (2, 3))
    assert phases.shape == (12, 3, 4, 4)
    assert torch.equal(phases[1], nn.functional.pad(x, (0, 2, 0, 1))[0, :, ::2, 1::3])
    assert torch.equal(from_phases(phases, (2, 3), x.shape), x)


def test_which_are_given_the_choice():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, stride=2),
        nn.Conv2d(4, 4, 1, dilation=2, padding=2),
    )
    graph = trace_module(model.eval())
    fuse_epilogues(graph)
    assert split_dilated(graph) == 1
    assert split_dilated(graph) == 0


@torch.no_grad()
def test_it_is_chosen_where_there_is_a_faster_algorithm():
    x = torch.randn(1, 128, 16, 16).contiguous(memory_format=torch.channels_last)
    step = nn.Sequential(DilatedConv(made(128, act="relu")))
    wanted = step(x)
    choose(step, x, timed=False)
    able = any(
        "winograd" in name
        for name in FusedConv(torch.zeros(128, 128, 3, 3), None, Geometry()).choices(x)
    )
    assert list(step[0].implementations) == ["phases" if able else "direct"]
    assert largest_difference(step(x), wanted) < 1e-5
    far = DilatedConv(made(128, dilation=(6, 6)))
    assert far.choices(x) == ["direct"]  # phases of 3x3 cells, which are less than a tile
    few = nn.Sequential(DilatedConv(made(8)))
    choose(few, x[:, :8], timed=False)
    assert list(few[0].implementations) == ["direct"]


def test_optimize_says_what_it_did():
    model = ready(segzoo.DeepLabV3("test_resnet", classes=2, decoder_channels=8))
    fast = segzoo.optimize(model, example=torch.rand(1, 3, 64, 64), backend="eager")
    applied = {item.name: item.detail for item in fast.passes if item.applied}
    assert "dilated convolutions may be plain ones of the map's phases" in applied["split dilated"]
    # The branch that pools the image is enlarged, and projected before that.
    assert applied["pointwise first"].startswith("1 1x1 convolutions of maps before they are")
