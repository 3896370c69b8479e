import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segzoo.architectures.decoder_config import BlocksConfig
from segzoo.architectures.dynamic_unet_layers import Upsample
from segzoo.architectures.unet import UnetBlock
from segzoo.inference.optimize.doubled_conv import DoubledConv
from segzoo.inference.optimize.fused_conv import FusedConv, Geometry
from segzoo.nn import layers
from segzoo.nn.layers import (
    INTERPOLATIONS,
    NORMS,
    SCSE,
    ChannelNorm2d,
    InstanceNorm2d,
    as_weights_lie,
    is_channels_last,
    norm_layer,
    resize,
)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [1, 2, 7, 48])
@pytest.mark.parametrize("training", [True, False])
def test_every_norm_takes_any_width(norm, channels, training):
    layer = norm_layer(norm, channels).train(training)
    x = torch.randn(2, channels, 3, 5, requires_grad=True)
    out = layer(x)
    assert out.shape == x.shape
    out.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_instance_norm_equals_torch_and_takes_a_single_cell():
    x = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(InstanceNorm2d(6)(x), nn.InstanceNorm2d(6, affine=True)(x))
    cell = InstanceNorm2d(6)(torch.randn(1, 6, 1, 1))
    torch.testing.assert_close(cell, torch.zeros(1, 6, 1, 1), atol=1e-3, rtol=0)


def test_channel_norm_normalises_over_channels():
    out = ChannelNorm2d(16)(torch.randn(2, 16, 3, 3) * 5 + 2)
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(2, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(dim=1, correction=0), torch.ones(2, 3, 3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 15, 16, 64])
def test_scse_works_at_any_width(channels):
    assert SCSE(channels)(torch.randn(2, channels, 4, 3)).shape == (2, channels, 4, 3)


LAYOUTS = [torch.contiguous_format, torch.channels_last]


def repeated(x, size):
    """Nearest neighbours by whole numbers."""
    rows, columns = (
        torch.arange(side) * n // side for n, side in zip(x.shape[-2:], size, strict=True)
    )
    return x[:, :, rows][..., columns]


def numbered(height, width, *, channels=1, layout=torch.contiguous_format):
    """A map whose cells have different values, small enough for float32 to hold."""
    x = torch.arange(channels * height * width, dtype=torch.float32)
    return x.view(1, channels, height, width).contiguous(memory_format=layout)


@pytest.mark.parametrize("n", [1448, 2095, 5000, 20_000, 100_000])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["plain", "channels last"])
def test_a_long_map_is_resized_to_the_right_cells(n, layout):
    for side in (n - 1, n, 2 * n - 1, 2 * n):
        for other in (2, 3, 4, 7) if n < 10_000 else (3,):  # n, 2 n - 1, 2 n, none of these
            x = numbered(2, n, channels=2, layout=layout)
            for turned in (False, True):
                x, size = (x.mT, (side, other)) if turned else (x, (other, side))
                x = x.contiguous(memory_format=layout)
                out = resize(x, size, mode="nearest")
                assert torch.equal(out, repeated(x, size)), (size, turned)
                assert out.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("mode", INTERPOLATIONS)
def test_a_map_of_ordinary_size_is_resized_by_torch(mode):
    for size in ((5, 7), (9, 13), (10, 14), (4, 20)):
        x = torch.randn(2, 3, 5, 7)
        assert torch.equal(resize(x, size, mode=mode), F.interpolate(x, size, mode=mode))


def test_resizing_to_the_right_cells_has_a_gradient(monkeypatch):
    monkeypatch.setattr(layers, "_RIGHT_IN_FLOAT32", 0)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    for size in ((5, 7), (6, 7), (5, 8), (3, 7), (2, 3)):
        assert torch.equal(resize(x, size, mode="nearest"), repeated(x, size))
        assert torch.autograd.gradcheck(lambda x, size=size: resize(x, size, mode="nearest"), x)


@torch.no_grad()
def test_decoders_take_the_right_cells_on_long_sides():
    """Convolutions that only copy, so that the cells of the result can be counted."""
    x, size = numbered(1, 20_000), (1, 39_999)
    block = UnetBlock(1, 0, 1, BlocksConfig(norm="none")).eval()
    for conv in (block.conv1.conv, block.conv2.conv):
        nn.init.dirac_(conv.weight)
    assert torch.equal(block(x, None, size), repeated(x, size))
    shuffle = Upsample(1, 1, norm="none", act=None)
    nn.init.ones_(shuffle.conv.conv.weight)
    assert torch.equal(shuffle(x, size), repeated(x, size))
    fused = DoubledConv(FusedConv(block.conv1.conv.weight, None, Geometry()), 1)
    assert torch.equal(fused(x, None, size), repeated(x, size))


def test_weights_say_how_maps_are_to_lie():
    x = torch.randn(1, 4, 3, 5).contiguous(memory_format=torch.channels_last)
    pointwise = nn.Conv2d(4, 4, 1)  # lies in both ways at once
    for layout in LAYOUTS:
        block = nn.Sequential(pointwise, nn.Conv2d(4, 4, 3)).to(memory_format=layout)
        assert is_channels_last(block) == (layout is torch.channels_last)
        assert as_weights_lie(x, block).is_contiguous(memory_format=layout)
    assert not is_channels_last(pointwise)
    assert not is_channels_last(nn.Identity())
