"""What a backbone says of the maps it gives, and what can be asked of a pyramid of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral

from .errors import ArgumentError


@dataclass(frozen=True)
class FeatureSpec:
    """One map of an encoder: ``channels`` planes, one cell for ``stride`` x ``stride`` pixels.

    The stride is nominal. A map's real height and width are read from the map itself, because
    backbones round differently at sizes that the stride does not divide.
    """

    channels: int
    stride: int

    def __post_init__(self) -> None:
        whole = all(isinstance(value, Integral) for value in (self.channels, self.stride))
        if not whole or self.channels < 1 or self.stride < 1:
            raise ArgumentError(
                "A feature map has at least one channel and a stride of at least 1, both whole "
                f"numbers, got {self}."
            )


def ceil_div(value: int, divisor: int) -> int:
    """``value / divisor`` rounded up, of a size; exact on symbolic sizes, where it stays symbolic.

    >>> ceil_div(65, 32)
    3
    """
    # Not -(-value // divisor): an exported graph may divide negative numbers towards zero.
    return (value + divisor - 1) // divisor


def check_pyramid(features: Sequence[FeatureSpec]) -> tuple[FeatureSpec, ...]:
    """The features as a tuple, if they are in order: finest first, no stride smaller than the last.

    Raises:
        ArgumentError: There is no map, or a map is finer than the one before it.
    """
    if not features:
        raise ArgumentError("An encoder must give at least one feature map; got none.")
    strides = [feature.stride for feature in features]
    if strides != sorted(strides):
        raise ArgumentError(f"Feature maps must come finest first; got the strides {strides}.")
    return tuple(features)


def is_flat(strides: Sequence[int]) -> bool:
    """Whether there are several maps, all of one stride, as in a plain vision transformer.

    >>> is_flat((16, 16, 16)), is_flat((8, 16, 16)), is_flat((16,))
    (True, False, False)
    """
    return len(strides) > 1 and len(set(strides)) == 1


def decoder_strides(features: Sequence[FeatureSpec]) -> tuple[int, ...]:
    """The strides that a decoder visits after the deepest map, down to 1.

    Every stride of the pyramid is visited; between two that are nearer to a factor of four than
    to a factor of two, and between the finest and the image, the walk halves (rounding up).

    >>> decoder_strides([FeatureSpec(64, 4), FeatureSpec(128, 8), FeatureSpec(256, 16)])
    (8, 4, 2, 1)
    >>> decoder_strides([FeatureSpec(384, 14)])
    (7, 4, 2, 1)
    """
    known = sorted({feature.stride for feature in features} | {1}, reverse=True)
    walk: list[int] = []
    for coarse, fine in pairwise(known):
        stride = coarse
        while stride**2 >= 8 * fine**2:
            stride = ceil_div(stride, 2)
            walk.append(stride)
        walk.append(fine)
    return tuple(walk)
