"""The outputs of four cells computed as channels of one are what a convolution gives."""

import pytest
import torch
import torch.nn.functional as F

import segzoo
from segzoo.inference.optimize.few_outputs import FewOutputs
from segzoo.inference.optimize.fused_conv import FusedConv, Geometry
from tests.helpers import randomise


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("size", [(2, 2), (8, 14)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_even_sides(outputs, size, dtype):
    x = torch.randn(2, 5, *size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(outputs, 5, 3, 3, dtype=dtype), torch.randn(outputs, dtype=dtype)
    few = FewOutputs(weight, bias)
    assert few.takes(x)
    torch.testing.assert_close(few(x), F.conv2d(x, weight, bias, padding=1))
    other = torch.randn(2, outputs, *size, dtype=dtype)
    expected = F.conv2d(x, weight, padding=1) + other
    torch.testing.assert_close(FewOutputs(weight, None)(x, other), expected)


def test_odd_sides_go_the_plain_way():
    conv = FusedConv(torch.randn(3, 5, 3, 3), torch.randn(3), Geometry())
    conv.use("squares", torch.randn(1, 5, 8, 8))
    for size in ((8, 8), (7, 8), (8, 7)):
        x = torch.randn(1, 5, *size)
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


def test_optimize_takes_it_for_the_head():
    model = segzoo.Unet("resnet18", classes=3, decoder_channels=(32, 16, 8, 8, 8))
    randomise(model)
    model.eval()
    fast = segzoo.optimize(model, example=torch.rand(1, 3, 64, 64), backend="eager")
    kernels = [item.kernel for item in fast.modules() if isinstance(item, FusedConv)]
    assert kernels.count("squares") == 1
