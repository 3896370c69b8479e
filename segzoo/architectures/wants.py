"""What an architecture asks of its encoder, said once and in one place."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ModelConfig
from ..encoders import Encoder
from ..encoders.pyramid import Chosen, OwnMaps, Pyramid, Reassemble, make_pyramid
from ..encoders.query_blocks import QueryTokens
from ..features import is_flat


@dataclass(frozen=True, kw_only=True)
class Wants:
    """The maps that an architecture is built for.

    Args:
        own_maps: The encoder's maps as they come, several of one stride too; else a pyramid with
            one map of each stride, which is made for encoders whose maps are all alike.
        doubles: A pyramid in which maps of one stride are all given, not the deepest alone, as
            the stages of a dilated encoder are. One that is made for encoders whose maps are all
            alike goes no further than the output stride.
        finest: Maps of a smaller stride are left out, unless there are no others.
        most: At most that many maps, counted from the deepest; None for all.
        ends: Of those the finest and the deepest only.
        coarsest: Maps of a larger stride are left out, unless there are no others; None for all.
            An encoder that is built by its name is built without what only they need, unless
            somebody says which maps it has (``depth``, ``out_indices``).
        output_stride: How far the encoder should shrink the image where the user does not say;
            the nearest that the backbone can. None for what it is made for.
        prefix_tokens: The class and register tokens of a transformer that the model builds by
            name, ``(N, P, C)`` for each of the encoder's maps. They come after the maps;
            ``encoder.prefix_tokens`` tells how many there are, 0 where there are none.
        queries: Tokens that join the last blocks of a plain transformer, which the model builds by
            name. The encoder then has two maps, that in front of those blocks and that behind them,
            after which come the queries, ``(N, queries, C)``.
    """

    own_maps: bool = False
    doubles: bool = False
    finest: int = 1
    most: int | None = None
    ends: bool = False
    coarsest: int | None = None
    output_stride: int | None = None
    prefix_tokens: bool = False
    queries: QueryTokens | None = None


def maps_are_told(config: ModelConfig) -> bool:
    """Whether a person says which maps the encoder has: it then has those, used or not."""
    return config.depth is not None or "out_indices" in config.encoder_options


def make_maps(encoder: Encoder, wants: Wants, output_stride: int | None = None) -> Pyramid:
    """The module that turns an encoder's maps into those that an architecture wants.

    Args:
        encoder: Gives the maps.
        wants: What the architecture wants.
        output_stride: What the user asks for, in place of the architecture's wish.
    """
    features, flat = encoder.features, is_flat(encoder.made_for)
    pyramid: Pyramid
    if wants.own_maps or (wants.doubles and not flat):
        pyramid = OwnMaps(features)
    elif wants.doubles:
        pyramid = Reassemble(features, coarsest=output_stride or wants.output_stride)
    else:
        pyramid = make_pyramid(features, flat=flat)
    if wants.finest == 1 and wants.most is None and wants.coarsest is None and not wants.ends:
        return pyramid
    return Chosen(
        pyramid, finest=wants.finest, coarsest=wants.coarsest, most=wants.most, ends=wants.ends
    )
