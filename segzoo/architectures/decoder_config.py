"""Options that decoders share, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import checks
from ..config import NOT_SAVED, ModelConfig
from ..errors import ArgumentError
from ..features import FeatureSpec, decoder_strides
from ..nn.layers import ATTENTIONS, INTERPOLATIONS, NORMS

#: No decoder is wider than this; it keeps a config from asking for the memory of a data centre.
MAX_CHANNELS = 8192
#: The value of ``checkpoint`` that keeps convolutions' outputs alone.
NORMS_ONLY = "norms"
#: How a block joins its inputs: see :class:`~segzoo.architectures.unet.UnetBlock`.
DECODER_IMPLS = ("auto", "plain", "rewritten")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(ModelConfig):
    """What every decoder of convolutions can be told.

    Args:
        norm: ``batch``, ``group``, ``instance``, ``layer`` or ``none``.
        dropout: Probability of dropping a plane of the decoder's last map, 0 to 1.
    """

    norm: str = "batch"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("norm", self.norm, NORMS)
        self._set(dropout=checks.number("dropout", self.dropout, minimum=0, maximum=1))


@dataclass(frozen=True, kw_only=True)
class WidthConfig(DecoderConfig):
    """What a decoder can be told that has one width throughout.

    Args:
        decoder_channels: Width of the decoder.
    """

    decoder_channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        width("decoder_channels", self.decoder_channels)


@dataclass(frozen=True, kw_only=True)
class BlocksConfig(DecoderConfig):
    """What a decoder can be told that climbs from the deepest map block by block.

    Args:
        decoder_channels: Width of each decoder block, deepest first; None for 256, 128, 64, 32,
            16, continued upwards with 256 where the encoder is deeper, and cut where it is not.
        attention: ``none`` or ``scse``, before and after the convolutions of each block (before
            only where the block joins maps or is not the last).
        interpolation: How a block resizes its input: ``nearest``, ``bilinear``, ``bicubic``,
            ``area`` or ``nearest-exact``.
        checkpoint: How many of the last blocks keep only their inputs for the backward pass, and
            compute the rest again: less memory for more time. True for two. ``norms``: the blocks
            keep what their convolutions give, and compute batch normalisations and ReLUs again,
            which is nearly for nothing.
    """

    decoder_channels: tuple[int, ...] | None = None
    attention: str = "none"
    interpolation: str = "nearest"
    checkpoint: bool | int | str = field(default=False, metadata=NOT_SAVED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_channels is not None:
            self._set(
                decoder_channels=checks.sequence("decoder_channels", self.decoder_channels, width)
            )
        checks.choice("attention", self.attention, ATTENTIONS)
        checks.choice("interpolation", self.interpolation, INTERPOLATIONS)
        count = type(self.checkpoint) is int and 0 <= self.checkpoint <= 1024
        if not (count or isinstance(self.checkpoint, bool) or self.checkpoint == NORMS_ONLY):
            raise ArgumentError(
                f"checkpoint must be True, False, a number of blocks from 0 to 1024, or "
                f"{NORMS_ONLY!r}, got {checks.shown(self.checkpoint)}."
            )
        if self.checkpoint == NORMS_ONLY and self.norm != "batch":
            raise ArgumentError(
                f"checkpoint={NORMS_ONLY!r} is for batch normalisation, and the norm is "
                f"{self.norm!r}. Take checkpoint=True, which computes whole blocks again."
            )


@dataclass(frozen=True, kw_only=True)
class JoiningConfig(BlocksConfig):
    """What a decoder can be told whose blocks concatenate what they join.

    Args:
        decoder_impl: How a block joins its inputs: ``plain``, ``rewritten`` without the
            concatenation wherever that is the same, or ``auto``; see
            :class:`~segzoo.architectures.unet.UnetBlock`.
    """

    decoder_impl: str = field(default="auto", metadata=NOT_SAVED)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("decoder_impl", self.decoder_impl, DECODER_IMPLS)


def width(name: str, value: int) -> int:
    """A number of channels that a decoder may have."""
    return checks.integer(name, value, minimum=1, maximum=MAX_CHANNELS)


def block_widths(config: BlocksConfig, features: Sequence[FeatureSpec]) -> tuple[int, ...]:
    """The width of each block of the walk from the deepest map to the image.

    Raises:
        ArgumentError: There is not one width for each block.
    """
    strides = decoder_strides(features)
    if config.decoder_channels is None:
        return tuple(min(16 << i, 256) for i in reversed(range(len(strides))))
    if len(config.decoder_channels) != len(strides):
        raise ArgumentError(
            f"decoder_channels must have {len(strides)} values, one for each of the strides "
            f"{strides} from stride {features[-1].stride} to the image; got "
            f"{len(config.decoder_channels)}: {config.decoder_channels}."
        )
    return config.decoder_channels


def checkpointed_blocks(config: BlocksConfig, count: int) -> int:
    """How many of a decoder's ``count`` blocks, counted from the last, keep only their inputs.

    Raises:
        ArgumentError: There are not that many blocks.
    """
    if isinstance(config.checkpoint, str):
        return 0
    if config.checkpoint > count:
        raise ArgumentError(
            f"checkpoint must be between 0 and {count}, the number of the decoder's blocks; got "
            f"{config.checkpoint}."
        )
    return min(2, count) if config.checkpoint is True else int(config.checkpoint)
