"""Winograd's algorithm gives what a convolution gives."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segzoo
from segzoo.inference.optimize import winograd
from segzoo.inference.optimize.doubled_conv import DoubledConv
from segzoo.inference.optimize.fused_conv import ACTIVATIONS, FusedConv, Geometry
from segzoo.inference.optimize.toom_cook import transforms
from segzoo.inference.optimize.winograd import WINOGRAD, Part, Winograd
from tests.helpers import randomise


def relative(output, expected):
    return float((output.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("taps", [1, 2, 3, 5])
@pytest.mark.parametrize("points", [(0, 1, -1, 2), (0, 1, -1, Fraction(1, 2), -2), range(-3, 4)])
def test_the_matrices_filter(points, taps):
    back, kernel, tile = transforms([Fraction(point) for point in points], taps)
    g, d = torch.rand(taps).double(), torch.rand(len(points) + 1).double()
    slid = F.conv1d(d[None, None], g[None, None])[0, 0]
    torch.testing.assert_close(back @ ((kernel @ g) * (tile @ d)), slid, rtol=0, atol=1e-10)


@pytest.fixture(params=WINOGRAD)
def form(request):
    return request.param


@pytest.mark.parametrize("size", [(1, 1), (4, 8), (5, 3), (17, 30)])
@pytest.mark.parametrize("images", [1, 3])
def test_a_convolution_of_any_size(size, images, form):
    x, weight = torch.randn(images, 5, *size), torch.randn(7, 5, 3, 3)
    bias, other = torch.randn(7), torch.randn(images, 7, *size)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    filters = Winograd(weight, bias, x.shape, form=form)
    out = filters(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert relative(out, expected) < 3e-6
    assert relative(filters(x, other=other), expected + other) < 3e-6
    relu = Winograd(weight, bias, x.shape, act=torch.relu_, form=form)
    assert relative(relu(x), expected.relu()) < 3e-6
    assert relative(relu(x, other=other), (expected + other).relu()) < 3e-6
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    silu = Winograd(weight, None, x.shape, act=ACTIVATIONS["swish"], form=form)
    assert relative(silu(x), F.silu(expected)) < 3e-6


@pytest.mark.parametrize(("size", "cells"), [((16, 16), 16), ((16, 32), 36), ((20, 23), 36)])
def test_of_a_small_map_tiles_may_be_small(size, cells, form):
    x, weight = torch.randn(1, 4, *size), torch.randn(4, 4, 3, 3)
    filters = Winograd(weight, None, x.shape, form=form)
    assert filters._cells == (36 if form == "winograd_4x4" else cells)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    assert relative(filters(x), expected) < 3e-6


@pytest.mark.parametrize("size", [(1, 1), (2, 4), (5, 3), (9, 14), (17, 18)])
@pytest.mark.parametrize("skip", [True, False])
def test_a_concatenation_with_a_doubled_map(size, skip, form):
    x, weight = torch.randn(2, 5, *size), torch.randn(4, 5 + 3 * skip, 3, 3)
    whole = F.interpolate(x, scale_factor=2)
    maps, parts = [x], [Part(5, doubled=True)]
    if skip:
        maps, parts = [x, torch.randn(2, 3, *whole.shape[-2:])], [*parts, Part(3)]
        whole = torch.cat([whole, maps[1]], dim=1)
    filters = Winograd(weight, None, x.shape, parts, form=form)
    assert filters.takes(x)
    assert not filters.takes(whole)
    expected = F.conv2d(whole.double(), weight.double(), padding=1)
    assert relative(filters(*maps), expected) < 3e-6


@pytest.mark.parametrize("skip", [True, False])
def test_a_block_computes_it_for_its_shape_only(skip):
    conv = FusedConv(torch.randn(4, 8, 3, 3), torch.randn(4), Geometry(), act="relu")
    block = DoubledConv(conv, 5 if skip else 8)
    for size in ((4, 6), (3, 8), (4, 6)):
        x = torch.randn(1, block.in_channels, *size)
        doubled = (2 * size[0], 2 * size[1])
        beside = torch.randn(1, 3, *doubled) if skip else None
        if size == (4, 6):
            block.use("winograd", x)
            block.keep()
        whole = [F.interpolate(x, doubled), *([] if beside is None else [beside])]
        expected = F.conv2d(
            torch.cat(whole, dim=1).double(), conv.weight.double(), conv.bias.double(), padding=1
        )
        assert relative(block(x, beside, doubled), expected.relu()) < 3e-6


@pytest.mark.parametrize("fewest", [1, 2, 7, 1000])
def test_strips_do_not_show(fewest, form, monkeypatch):
    x, weight = torch.randn(6, 4, 22, 19), torch.randn(3, 4, 3, 3)
    whole = Winograd(weight, None, x.shape, form=form)(x)
    monkeypatch.setattr(winograd, "_BYTES", 1)
    monkeypatch.setattr(winograd, "_FEWEST", fewest)
    strips = Winograd(weight, None, x.shape, form=form)
    assert sum(map(len, strips._strips)) > 1 or fewest == 1000
    assert relative(strips(x), whole.double()) < 1e-6


@torch.no_grad()
def test_a_compiler_takes_it_whole(form, monkeypatch):
    monkeypatch.setattr(winograd, "_BYTES", 1)
    monkeypatch.setattr(winograd, "_FEWEST", 2)
    x, skip = torch.randn(2, 5, 4, 6), torch.randn(2, 3, 8, 12)
    parts = [Part(5, doubled=True), Part(3)]
    filters = Winograd(
        torch.randn(4, 8, 3, 3), torch.randn(4), x.shape, parts, act=torch.relu_, form=form
    )
    compiled = torch.compile(filters, backend="aot_eager", fullgraph=True, dynamic=False)
    other = torch.randn(2, 4, 8, 12)
    expected = filters(x, skip, other=other)
    torch.testing.assert_close(compiled(x, skip, other=other), expected, rtol=0, atol=1e-6)


def test_two_sizes_of_tiles_are_tried_on_small_maps():
    weight = torch.randn(128, 128, 3, 3)
    for side, doubled, forms in ((20, False, 3), (24, False, 2), (10, True, 3), (12, True, 2)):
        x = torch.randn(1, 128, side, side)
        names = winograd.choices(weight, x, doubled=doubled)
        assert len(names) == forms * winograd.fuses_on_cpu(), (side, doubled)
        for tried in names:  # they compute what each says
            size = winograd.Winograd(
                weight, None, x.shape, [Part(128, doubled=doubled)], form=tried
            )._size
            assert size == (2 if forms == 3 and tried != "winograd_4x4" else 4)
    assert not winograd.choices(weight[:64], torch.randn(1, 128, 20, 20))
    assert not winograd.choices(weight, torch.randn(1, 128, 20, 20).double())


@pytest.mark.parametrize("channels", [128, 512])
def test_rounding_errors_stay_small_over_many_channels(channels, form):
    torch.manual_seed(0)
    x, weight = torch.randn(1, channels, 16, 16).relu(), torch.randn(channels, channels, 3, 3)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    # Larger tiles magnify roundings more; a step that differs by 1e-5 is not taken.
    limit = 1e-5 if form == "winograd_4x4" else 5e-6
    assert relative(Winograd(weight, None, x.shape, form=form)(x), expected) < limit


def test_only_the_shape_it_is_made_for_takes_it():
    conv = FusedConv(torch.randn(8, 8, 3, 3), torch.randn(8), Geometry(), act="relu", adds=True)
    x = torch.randn(2, 8, 12, 12)
    conv.use("winograd", x)
    for side in (12, 9):
        x, other = torch.randn(2, 8, side, side), torch.randn(2, 8, side, side)
        expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
        assert relative(conv(x, other), (expected + other).relu()) < 3e-6
    conv.use("torch", x)
    assert conv._algorithm is None


class Wide(nn.Module):
    features = (segzoo.FeatureSpec(128, 2),)

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 128, 3, 2, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, 1, 1), nn.ReLU()
        )

    def forward(self, image):
        return [self.body(image)]


def test_optimize_takes_it_for_many_channels():
    model = segzoo.Unet(Wide(), classes=3)
    randomise(model)
    model.eval()
    fast = segzoo.optimize(model, example=torch.rand(1, 3, 32, 48), backend="eager")
    kernels = [item.kernel for item in fast.modules() if isinstance(item, FusedConv)]
    assert kernels.count("winograd") == 1
    assert "1 winograd" in fast.report()
    for shape in ((1, 3, 32, 48), (2, 3, 31, 17)):
        image = torch.rand(shape)
        with torch.no_grad():
            assert relative(fast(image), model(image).double()) < 1e-5
