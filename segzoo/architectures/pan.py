"""PAN, the pyramid attention network, on any encoder.

Li, Xiong, An and Wang, "Pyramid Attention Network for Semantic Segmentation", 2018. The layers are
those of segmentation_models_pytorch, so that its checkpoints can be brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..config import ModelConfig, built_from
from ..features import FeatureSpec
from ..nn.graph_capture import serves_other_sizes
from ..nn.layers import INTERPOLATIONS, ConvNormAct, SegmentationHead, norm_layer, zero_bias
from ..registry import register_architecture
from .aspp import norm_of_a_cell
from .base import SegmentationModel
from .decoder_config import WidthConfig
from .wants import Wants


@dataclass(frozen=True, kw_only=True)
class PANConfig(WidthConfig):
    """Arguments of :class:`PAN`, on top of what decoders share.

    Args:
        decoder_channels: As in :class:`~segzoo.architectures.decoder_config.WidthConfig`.
        interpolation: How a map is resized to the next finer one: ``nearest``, ``bilinear`` (with
            aligned corners), ``bicubic``, ``area`` or ``nearest-exact``. The attention on the
            deepest map is always resized bilinearly.
    """

    decoder_channels: int = 32
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("interpolation", self.interpolation, INTERPOLATIONS)


def _unit(in_channels: int, out_channels: int, kernel: int, norm: str) -> ConvNormAct:
    return ConvNormAct(in_channels, out_channels, kernel=kernel, bias=True, norm=norm)


def _plane(in_channels: int, kernel: int, norm: str) -> ConvNormAct:
    # Over the channels of a cell there is nothing to normalise where there is one channel.
    return _unit(in_channels, 1, kernel, norm if norm == "batch" else "none")


class FeaturePyramidAttention(nn.Module):
    """A map weighted by what windows of 7, 5 and 3 cells see in ever smaller copies of it.

    Section 3.1 of the paper.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "batch") -> None:
        super().__init__()
        self.pooled = _unit(in_channels, out_channels, 1, norm_of_a_cell(norm))
        self.middle = _unit(in_channels, out_channels, 1, norm)
        self.down1 = _plane(in_channels, 7, norm)
        self.down2 = _plane(1, 5, norm)
        self.down3 = nn.Sequential(_plane(1, 3, norm), _plane(1, 3, norm))
        self.up2 = _plane(1, 5, norm)
        self.up1 = _plane(1, 7, norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        first = self.down1(_halved(x))
        second = self.down2(_halved(first))
        third = self.down3(_halved(second))
        seen = self.up2(second) + _resized(third, second)
        seen = _resized(seen, first) + self.up1(first)
        pooled = _resized(self.pooled(F.adaptive_avg_pool2d(x, 1)), x)
        out: Tensor = _resized(seen, x) * self.middle(x) + pooled
        return out


def _halved(x: Tensor) -> Tensor:
    """The larger of two cells and two, the last left out where they are odd; one stays one."""
    if not serves_other_sizes(x) and min(x.shape[-2:]) > 1:
        return F.max_pool2d(x, 2)
    # torch's own maximum where a size may be a symbol in a graph; its compiler wants Python's.
    most: Any = max if torch.compiler.is_dynamo_compiling() else torch.sym_max
    height, width = (most(2 - side, 0) for side in x.shape[-2:])
    return F.max_pool2d(F.pad(x, (0, width, 0, height), value=float("-inf")), 2)


def _resized(x: Tensor, like: Tensor, mode: str = "bilinear") -> Tensor:
    size = (like.shape[-2], like.shape[-1])
    align_corners = True if mode == "bilinear" else None
    return F.interpolate(x, size, mode=mode, align_corners=align_corners)


class GlobalAttentionUpsample(nn.Module):
    """A finer map, weighted by what a coarser one pools to, is added to it.

    Section 3.2 of the paper.
    """

    def __init__(self, in_channels: int, channels: int, config: PANConfig) -> None:
        super().__init__()
        self.interpolation = config.interpolation
        self.conv = _unit(in_channels, channels, 3, config.norm)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.gate_norm = norm_layer(norm_of_a_cell(config.norm), channels)
        nn.init.kaiming_uniform_(self.gate.weight, nonlinearity="relu")
        zero_bias(self.gate)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """``(N, in_channels, H, W)``, ``(N, channels, h, w)`` -> ``(N, channels, H, W)``."""
        gate: Tensor = self.gate_norm(self.gate(F.adaptive_avg_pool2d(coarse, 1)))
        weighted: Tensor = self.conv(fine) * gate.sigmoid()
        return _resized(coarse, fine, self.interpolation) + weighted


class PANDecoder(nn.Module):
    """Encoder maps -> one map of the size of the finest.

    Args:
        features: What the maps are, finest first; several may have one stride.
        config: The options.

    Attributes:
        attention: On the deepest map.
        upsamples: One for each other map, finest first; they run from the last to the first.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: PANConfig) -> None:
        super().__init__()
        channels = config.decoder_channels
        self.attention = FeaturePyramidAttention(features[-1].channels, channels, norm=config.norm)
        self.upsamples = nn.ModuleList(
            GlobalAttentionUpsample(feature.channels, channels, config) for feature in features[:-1]
        )
        self.out = FeatureSpec(channels, features[0].stride)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of ``features`` -> ``(N, out.channels, h, w)``."""
        x: Tensor = self.attention(maps[-1])
        for upsample, fine in zip(reversed(self.upsamples), reversed(maps[:-1]), strict=True):
            x = upsample(fine, x)
        return x


@register_architecture("pan")
class PAN(SegmentationModel):
    """PAN on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    The encoder shrinks the image to a sixteenth where it can (``output_stride``). Its deepest map
    is weighted by an attention that looks at ever larger parts of it; from there the decoder
    climbs through the encoder's other maps down to stride 4.

    >>> model = segzoo.PAN("resnet18", classes=3)
    >>> [feature.stride for feature in model.features]
    [4, 8, 16, 16]
    >>> model.eval()(torch.rand(1, 3, 97, 64)).shape
    torch.Size([1, 3, 97, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`PANConfig` for
            ``decoder_channels``, ``interpolation``, ``norm`` and ``dropout``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = PANConfig
    config: PANConfig
    align_corners = True

    @built_from(PANConfig)
    def __init__(self, config: PANConfig) -> None:
        super().__init__(config)
        self.decoder = PANDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, dropout=config.dropout
        )

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """All maps from stride 4 on, both of stride 16 where the encoder is dilated."""
        return Wants(doubles=True, finest=4, output_stride=16)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the size of the finest."""
        logits: Tensor = self.head(self.decoder(maps))
        return logits
