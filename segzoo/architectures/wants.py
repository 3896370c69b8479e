"""What an architecture asks of its encoder, said once and in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..encoders.pyramid import Chosen, OwnMaps, Pyramid, make_pyramid
from ..features import FeatureSpec


@dataclass(frozen=True, kw_only=True)
class Wants:
    """The maps that an architecture is built for.

    Args:
        own_maps: The encoder's maps as they come, several of one stride too; else a pyramid with
            one map of each stride, which is made for encoders whose maps are all alike.
        finest: Maps of a smaller stride are left out, unless there are no others.
        most: At most that many maps, counted from the deepest; None for all.
        coarsest: Maps of a larger stride are left out, and what only they need of the encoder is
            not run; None for all.
        output_stride: How far the encoder should shrink the image where the user does not say;
            the nearest that the backbone can. None for what it is made for.
        prefix_tokens: The class and register tokens of a transformer beside each map.
    """

    own_maps: bool = False
    finest: int = 1
    most: int | None = None
    coarsest: int | None = None
    output_stride: int | None = None
    prefix_tokens: bool = False


def make_maps(features: Sequence[FeatureSpec], wants: Wants) -> Pyramid:
    """The module that turns an encoder's maps into those that an architecture wants."""
    pyramid: Pyramid = OwnMaps(features) if wants.own_maps else make_pyramid(features)
    if wants.finest == 1 and wants.most is None and wants.coarsest is None:
        return pyramid
    return Chosen(pyramid, finest=wants.finest, coarsest=wants.coarsest, most=wants.most)
