import pytest

from segzoo.errors import ArgumentError
from segzoo.features import FeatureSpec, ceil_div, check_pyramid, decoder_strides


def specs(*strides: int) -> list[FeatureSpec]:
    return [FeatureSpec(8, stride) for stride in strides]


@pytest.mark.parametrize(
    ("strides", "walk"),
    [
        ((2, 4, 8, 16, 32), (16, 8, 4, 2, 1)),
        ((4, 8, 16, 32), (16, 8, 4, 2, 1)),
        ((1, 2, 4), (2, 1)),
        ((16, 32, 64), (32, 16, 8, 4, 2, 1)),
        ((8, 32), (16, 8, 4, 2, 1)),
        ((14,), (7, 4, 2, 1)),
        ((12, 17), (12, 6, 3, 2, 1)),
        ((7, 14, 28), (14, 7, 4, 2, 1)),
        ((3, 7), (3, 2, 1)),
        ((1,), ()),
    ],
)
def test_a_decoder_visits_every_stride_and_halves_in_between(strides, walk):
    assert decoder_strides(specs(*strides)) == walk


def test_ceil_div_rounds_up():
    assert [ceil_div(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_a_pyramid_is_finest_first():
    assert check_pyramid(specs(2, 4)) == tuple(specs(2, 4))
    with pytest.raises(ArgumentError, match=r"finest first; got the strides \[4, 2\]"):
        check_pyramid(specs(4, 2))
    with pytest.raises(ArgumentError, match="at least one feature map"):
        check_pyramid([])


@pytest.mark.parametrize(("channels", "stride"), [(0, 2), (4, 0), (-1, 2), (4.0, 2), (4, 2.5)])
def test_a_feature_has_channels_and_a_stride(channels, stride):
    with pytest.raises(ArgumentError, match="at least one channel"):
        FeatureSpec(channels, stride)
