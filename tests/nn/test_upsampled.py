"""The convolution of a doubled map, computed on the small one."""

import pytest
import torch
import torch.nn.functional as F

from segzoo.nn.upsample_conv import conv_doubled


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 4)])
def test_it_equals_the_plain_way_borders_included(size):
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    ours = conv_doubled(x, weight, bias)
    plain = F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)
    assert ours.shape == plain.shape
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (x, weight, bias), upstream),
        torch.autograd.grad(plain, (x, weight, bias), upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
