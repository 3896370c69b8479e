import numpy as np
import pytest
import torch

from segzoo import Normalization
from segzoo.errors import ArgumentError, InputError

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_integers_are_scaled_and_floats_are_not():
    unit = torch.rand(2, 3, 5, 7)
    expected = (unit - torch.tensor(IMAGENET.mean)[:, None, None]) / torch.tensor(IMAGENET.std)[
        :, None, None
    ]
    torch.testing.assert_close(IMAGENET(unit), expected)
    eight = (unit * 255).round().to(torch.uint8)
    torch.testing.assert_close(IMAGENET(eight), IMAGENET(eight.float() / 255))
    sixteen = (unit * 65535).round().to(torch.uint16)
    torch.testing.assert_close(IMAGENET(sixteen), expected, atol=1e-4, rtol=0)


def test_bands_follow_the_way_weights_are_adapted():
    assert IMAGENET.for_bands(3) is IMAGENET
    assert IMAGENET.for_bands(5).mean == (0.485, 0.456, 0.406, 0.485, 0.456)
    assert IMAGENET.for_bands(1).mean == pytest.approx((0.449,))


def test_wrong_bands_or_types_are_refused():
    with pytest.raises(InputError, match=r"one plane for each band.*got the shape \(4, 5, 5\)"):
        IMAGENET(torch.rand(4, 5, 5))
    with pytest.raises(InputError, match=r"Expected uint8, uint16 or floating point.*int64"):
        IMAGENET(torch.zeros(3, 5, 5, dtype=torch.int64))


@pytest.mark.parametrize("image", [np.zeros((3, 5, 5), np.uint8), [[[0.5]]], None])
def test_what_is_no_tensor_is_refused(image):
    with pytest.raises(
        InputError, match=rf"a tensor \(\.\.\., 3, H, W\), got {type(image).__name__}"
    ):
        IMAGENET(image)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.5, 0.5)), ((), ()), ((0.5,), (0.0,)), ((float("nan"),), (1.0,))]
)
def test_impossible_statistics_are_refused(mean, std):
    with pytest.raises(ArgumentError):
        Normalization(mean, std)
