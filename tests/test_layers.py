import pytest
import torch
from torch import nn

from segzoo.nn.layers import NORMS, SCSE, ChannelNorm2d, InstanceNorm2d, norm_layer


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
