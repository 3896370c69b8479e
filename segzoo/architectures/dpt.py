"""DPT on any encoder: blocks of a transformer become a pyramid, fused from the deepest level up.

Ranftl, Bochkovskiy and Koltun, "Vision Transformers for Dense Prediction", 2021, section 3 and
figure 1. The layers are those of segmentation_models_pytorch, so that its checkpoints can be
brought over: unlike in the code that came with the paper the deepest fusion block has both of its
residual units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..config import WHEN_SET, ModelConfig, built_from
from ..errors import ArgumentError
from ..features import FeatureSpec
from ..nn.layers import ConvNormAct, norm_layer, zero_bias
from ..registry import register_architecture
from .base import SegmentationModel
from .decoder_config import DecoderConfig, width
from .heads import to_logits
from .wants import Wants

#: What becomes of a transformer's class and register tokens.
READOUTS = ("project", "add", "ignore")
#: The first level of the pyramid has this stride, each further one twice that of the one before.
_FINEST = 4
#: No level is made coarser: with more than eight maps the last ones have one stride.
_COARSEST = 512


@dataclass(frozen=True, kw_only=True)
class DPTConfig(DecoderConfig):
    """Arguments of :class:`DPT`, on top of what decoders share.

    Args:
        norm: As in :class:`~segzoo.architectures.decoder_config.DecoderConfig`.
        dropout: Probability of dropping a value in front of the last convolution, 0 to 1.
        readout: What becomes of a transformer's class and register tokens: ``project`` joins the
            first to every cell and projects both, ``add`` adds the mean of all to every cell,
            ``ignore`` leaves them out. None for ``project`` where the encoder has such tokens, else
            ``ignore``; without tokens ``project`` is a layer on each cell, and ``add`` becomes
            ``ignore``.
        reassemble_channels: Channels of each level before it is brought to the decoder's width,
            finest first; None for 256, 512 and then 1024.
        decoder_channels: Width of the decoder.
        refine_deepest: Whether the deepest level passes a residual unit of its own before it is
            fused, as all others do; not so in the paper's code and in transformers.
        finest_stride: Maps of the encoder that have a smaller stride than this are left out. The
            first level has stride 4 whatever its map has.
    """

    dropout: float = 0.1
    readout: str | None = None
    reassemble_channels: tuple[int, ...] | None = None
    decoder_channels: int = 256
    refine_deepest: bool = field(default=True, metadata=WHEN_SET)
    finest_stride: int = field(default=_FINEST, metadata=WHEN_SET)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.readout is not None:
            checks.choice("readout", self.readout, READOUTS)
        if self.reassemble_channels is not None:
            widths = checks.sequence("reassemble_channels", self.reassemble_channels, width)
            self._set(reassemble_channels=widths)
        width("decoder_channels", self.decoder_channels)
        checks.flag("refine_deepest", self.refine_deepest)
        checks.integer("finest_stride", self.finest_stride, minimum=1, maximum=_COARSEST)


class Readout(nn.Module):
    """What a transformer says of the whole image, told to each cell of one of its maps.

    Section 3 of the paper, "Read".

    Args:
        channels: Channels of the map.
        mode: One of :data:`READOUTS`.
        tokens: Whether there are tokens.
    """

    def __init__(self, channels: int, mode: str, *, tokens: bool) -> None:
        super().__init__()
        self.mode = mode
        self.tokens = tokens
        if mode == "project":
            self.linear = nn.Linear(2 * channels if tokens else channels, channels)
            nn.init.xavier_uniform_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The map ``(N, channels, h, w)`` and its tokens ``(N, P, channels)`` -> a map like it."""
        given = tokens if self.tokens else None
        if self.mode == "project":
            cells = x.flatten(2).transpose(1, 2).contiguous()
            if given is not None:
                cells = torch.cat([cells, given[:, :1].expand_as(cells)], dim=2)
            mixed = F.gelu(self.linear(cells)).transpose(1, 2)
            out: Tensor = mixed.unflatten(2, (x.shape[-2], x.shape[-1]))
            return out
        if self.mode == "add" and given is not None:
            return x + given.mean(dim=1)[:, :, None, None]
        return x


def doublings(stride: int, level: int) -> int:
    """How many times the map of a level is doubled, or halved where it is negative.

    Level 0 gets stride 4, each further one twice that of the one before: exactly where the map's
    stride is a power of two, else as near as doubling comes.

    >>> [doublings(16, level) for level in range(4)], doublings(14, 0)
    ([2, 1, 0, -1], 2)
    """
    return round(math.log2(stride / min(_FINEST << level, _COARSEST)))


class Level(nn.Module):
    """A map, projected, resampled, and brought to the decoder's width.

    "Resample" of section 3 of the paper.

    Args:
        in_channels: Channels of the map.
        channels: Channels while it is resampled.
        out_channels: Channels of the result.
        doublings: How many times it is doubled, or halved where it is negative.
    """

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, *, doublings: int
    ) -> None:
        super().__init__()
        factor = 2 ** abs(doublings)
        self.project = nn.Conv2d(in_channels, channels, 1)
        self.resample: nn.Module = nn.Identity()
        if doublings > 0:
            self.resample = nn.ConvTranspose2d(channels, channels, factor, stride=factor)
        elif doublings < 0:
            self.resample = nn.Conv2d(channels, channels, 3, stride=factor, padding=1)
        self.widen = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        for conv in (self.project, self.resample, self.widen):
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
                zero_bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, h', w')``."""
        out: Tensor = self.widen(self.resample(self.project(x)))
        return out


class ResidualUnit(nn.Module):
    """Two convolutions, each behind a ReLU, added to what came in (He et al., 2016, figure 4)."""

    def __init__(self, channels: int, *, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.act = nn.ReLU()  # not in place: what comes in is added in the end
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.norm1 = norm_layer(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.norm2 = norm_layer(norm, channels)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            zero_bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, h, w)`` -> the same shape."""
        inner = self.norm1(self.conv1(self.act(x)))
        out: Tensor = self.norm2(self.conv2(self.act(inner))) + x
        return out


class Fusion(nn.Module):
    """A level and what comes from below, joined and resized to the next level.

    The right part of figure 1.

    Args:
        channels: Channels of all of them.
        norm: One of :data:`~segzoo.nn.layers.NORMS`.
        refine: Whether the level passes a residual unit of its own.
    """

    def __init__(self, channels: int, *, norm: str, refine: bool = True) -> None:
        super().__init__()
        self.level = ResidualUnit(channels, norm=norm) if refine else nn.Identity()
        self.joined = ResidualUnit(channels, norm=norm)
        self.project = nn.Conv2d(channels, channels, 1)
        nn.init.kaiming_uniform_(self.project.weight, nonlinearity="relu")
        zero_bias(self.project)

    def forward(self, x: Tensor, below: Tensor | None, size: tuple[int, int]) -> Tensor:
        """``(N, channels, h, w)``, the same from below -> ``(N, channels, *size)``."""
        own: Tensor = self.level(x)
        joined = self.joined(own if below is None else own + below)
        larger = F.interpolate(joined, size=size, mode="bilinear", align_corners=True)
        out: Tensor = self.project(larger)
        return out


class DPTDecoder(nn.Module):
    """Encoder maps -> one map of twice the size of the finest level.

    Args:
        features: What the maps are, finest first; several may be of one stride.
        config: The options.
        tokens: Whether there are tokens beside each map.

    Attributes:
        readouts: One for each map, finest first.
        levels: One for each map, finest first: what they give is a pyramid.
        fusions: One for each level, deepest first.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: DPTConfig, *, tokens: bool) -> None:
        super().__init__()
        self.mode = config.readout or ("project" if tokens else "ignore")
        if self.mode == "add" and not tokens:
            # What is computed here, whatever tokens the encoder has when it is built by its name.
            self.mode = "ignore"
        self.channels = _channels(config, features)
        channels = config.decoder_channels
        self.readouts = nn.ModuleList(
            Readout(feature.channels, self.mode, tokens=tokens) for feature in features
        )
        self.levels = nn.ModuleList(
            Level(feature.channels, middle, channels, doublings=doublings(feature.stride, i))
            for i, (feature, middle) in enumerate(zip(features, self.channels, strict=True))
        )
        self.fusions = nn.ModuleList(
            Fusion(channels, norm=config.norm, refine=i > 0 or config.refine_deepest)
            for i in range(len(features))
        )
        self.out = FeatureSpec(channels, _FINEST // 2)

    def forward(self, maps: Sequence[Tensor], tokens: Sequence[Tensor] = ()) -> Tensor:
        """Maps of ``features``, and the tokens of each -> ``(N, out.channels, h, w)``."""
        levels = [
            level(readout(x, tokens[i]) if tokens else readout(x))
            for i, (readout, level, x) in enumerate(
                zip(self.readouts, self.levels, maps, strict=True)
            )
        ]
        finest = levels[0]
        sizes = [(item.shape[-2], item.shape[-1]) for item in levels[-2::-1]]
        sizes.append((2 * finest.shape[-2], 2 * finest.shape[-1]))
        below: Tensor | None = None
        for fusion, level, size in zip(self.fusions, reversed(levels), sizes, strict=True):
            below = fusion(level, below, size)
        assert below is not None  # there is at least one map
        return below


def _channels(config: DPTConfig, features: Sequence[FeatureSpec]) -> tuple[int, ...]:
    """Channels of each level while it is resampled."""
    given, count = config.reassemble_channels, len(features)
    if given is None:
        return tuple(min(256 << i, 1024) for i in range(count))
    if len(given) != count:
        raise ArgumentError(
            f"reassemble_channels must have {count} values, one for each of the maps of strides "
            f"{tuple(feature.stride for feature in features)}; got {len(given)}: {given}."
        )
    return given


class DPTHead(nn.Module):
    """A 3x3 convolution, dropout, and a 1x1 convolution to the logits."""

    def __init__(self, channels: int, classes: int, *, norm: str, dropout: float) -> None:
        super().__init__()
        self.unit = ConvNormAct(channels, channels, norm=norm)
        self.dropout = nn.Dropout(dropout)
        self.conv = to_logits(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, h, w)`` -> logits ``(N, classes, h, w)``."""
        logits: Tensor = self.conv(self.dropout(self.unit(x)))
        return logits


@register_architecture("dpt")
class DPT(SegmentationModel):
    """DPT on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    Made for plain vision transformers: the maps of four of their blocks (``depth``, or
    ``encoder_options={"out_indices": ...}`` for others) become levels of stride 4, 8, 16 and 32,
    which are fused from the deepest up, classified at half of the image's size and resized to it.
    Of an encoder that makes a pyramid by itself all maps of stride 4 and more are the levels.

    >>> model = segzoo.DPT("vit_tiny_patch16_224", classes=3)
    >>> model.encoder.strides, model.config.readout
    ((16, 16, 16, 16), 'project')
    >>> model(torch.rand(2, 3, 97, 64)).shape
    torch.Size([2, 3, 97, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`DPTConfig` for
            ``readout``, ``reassemble_channels``, ``decoder_channels``, ``refine_deepest``,
            ``finest_stride``, ``norm`` and ``dropout``.
            The tokens of a transformer are had where it is given by name.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = DPTConfig
    config: DPTConfig
    align_corners = True

    @built_from(DPTConfig)
    def __init__(self, config: DPTConfig) -> None:
        super().__init__(config)
        self.decoder = DPTDecoder(self.features, config, tokens=self.encoder.prefix_tokens > 0)
        self.head = DPTHead(
            self.decoder.out.channels, config.classes, norm=config.norm, dropout=config.dropout
        )
        self.config = replace(
            self.config, readout=self.decoder.mode, reassemble_channels=self.decoder.channels
        )

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The encoder's own maps of stride 4 and more, with their tokens."""
        assert isinstance(config, DPTConfig)
        return Wants(own_maps=True, finest=config.finest_stride, prefix_tokens=True)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` and their tokens -> logits of twice the size of the finest level."""
        count = len(self.features)
        # Only maps from the front are ever left out, and the tokens of all have come.
        tokens = maps[count:][-count:]
        logits: Tensor = self.head(self.decoder(maps[:count], tokens))
        return logits
