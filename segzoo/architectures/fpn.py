"""FPN: a feature pyramid with a semantic segmentation branch, on any encoder.

The pyramid is Lin et al., "Feature Pyramid Networks for Object Detection", 2017, figure 3; the
branch is Kirillov, Girshick, He and Dollár, "Panoptic Feature Pyramid Networks", 2019, section 3.1
and figure 3. The layers are those of segmentation_models_pytorch, so that its checkpoints can be
brought over: unlike Lin et al. it has no 3x3 convolution between the pyramid and the branch.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..config import ModelConfig, built_from
from ..features import FeatureSpec
from ..nn.lateral import Lateral
from ..nn.layers import INTERPOLATIONS, ConvNormAct, SegmentationHead, zero_bias
from ..registry import register_architecture
from .base import SegmentationModel
from .decoder_config import DecoderConfig, width
from .wants import Wants

#: How the branches of the levels become one map.
MERGES = ("add", "cat")
#: Levels of the pyramid: strides 4 to 32 on most encoders, as in both papers.
_LEVELS = 4
#: Groups of the group normalisation, where they divide the width (Wu and He, 2018).
_GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class FPNConfig(DecoderConfig):
    """Arguments of :class:`FPN`, on top of what decoders share.

    Args:
        norm: As in :class:`~segzoo.architectures.decoder_config.DecoderConfig`, here of the
            branches; ``group`` has 32 groups where the width can be divided by 32.
        dropout: As there.
        pyramid_channels: Width of the pyramid.
        decoder_channels: Width of the branches.
        merge: ``add`` or ``cat``: how the branches of all levels become one map.
        interpolation: How the pyramid's maps are resized on the way down: ``nearest``,
            ``bilinear``, ``bicubic``, ``area`` or ``nearest-exact``.
    """

    norm: str = "group"
    dropout: float = 0.2
    pyramid_channels: int = 256
    decoder_channels: int = 128
    merge: str = "add"
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        width("pyramid_channels", self.pyramid_channels)
        width("decoder_channels", self.decoder_channels)
        checks.choice("merge", self.merge, MERGES)
        checks.choice("interpolation", self.interpolation, INTERPOLATIONS)


class Branch(nn.Module):
    """From one level of the pyramid to the size of the finest: convolve, resize, and again.

    Args:
        in_channels: Channels of the level.
        out_channels: Channels of the result.
        count: Number of convolutions: one for each finer level, at least one.
        norm: Norm of the convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, count: int, *, norm: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            _unit(in_channels if i == 0 else out_channels, out_channels, norm) for i in range(count)
        )

    def forward(self, x: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """A level and the ``(height, width)`` of each finer one -> a map of the last of these."""
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i < len(sizes):
                x = F.interpolate(x, sizes[i], mode="bilinear", align_corners=True)
        return x


def _unit(in_channels: int, out_channels: int, norm: str) -> ConvNormAct:
    unit = ConvNormAct(in_channels, out_channels, norm=norm)
    if norm == "group" and out_channels % _GROUPS == 0:
        # Also where a group is a single channel, which other decoders avoid: checkpoints have it.
        unit.norm = nn.GroupNorm(_GROUPS, out_channels)
    return unit


class FPNDecoder(nn.Module):
    """Encoder maps -> one map of the size of the finest.

    Args:
        features: What the maps are, finest first.
        config: The options.

    Attributes:
        laterals: One for each map, deepest first: what they give is the pyramid.
        branches: One for each level of the pyramid, deepest first.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: FPNConfig) -> None:
        super().__init__()
        self.merge = config.merge
        count = len(features)
        self.laterals = nn.ModuleList(
            Lateral(
                _projection(feature.channels, config.pyramid_channels),
                interpolation=config.interpolation,
            )
            for feature in reversed(features)
        )
        self.branches = nn.ModuleList(
            Branch(
                config.pyramid_channels,
                config.decoder_channels,
                max(count - 1 - i, 1),
                norm=config.norm,
            )
            for i in range(count)
        )
        channels = config.decoder_channels * (count if config.merge == "cat" else 1)
        self.out = FeatureSpec(channels, features[0].stride)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of ``features`` -> ``(N, out.channels, h, w)``."""
        levels: list[Tensor] = []
        for lateral, skip in zip(self.laterals, reversed(maps), strict=True):
            levels.append(lateral(skip, levels[-1] if levels else None))
        sizes = [(item.shape[-2], item.shape[-1]) for item in reversed(maps)]
        parts = [
            branch(level, sizes[i + 1 :])
            for i, (branch, level) in enumerate(zip(self.branches, levels, strict=True))
        ]
        if self.merge == "cat":
            return torch.cat(parts, dim=1)
        # The bits of torch.stack(parts).sum(0), which copies all of them first; but in 16 bits this
        # rounds after each addition, and that once.
        joined: Tensor = functools.reduce(operator.add, parts)
        return joined


def _projection(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
    zero_bias(conv)
    return conv


@register_architecture("fpn")
class FPN(SegmentationModel):
    """FPN on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    The last four maps of the encoder make a pyramid, each level of which is brought to the size of
    the finest; their sum is classified there, and the logits are resized to the image.

    >>> model = segzoo.FPN("resnet18", classes=3)
    >>> model(torch.rand(1, 3, 97, 64)).shape
    torch.Size([1, 3, 97, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`FPNConfig` for
            ``norm``, ``dropout``, ``pyramid_channels``, ``decoder_channels``, ``merge`` and
            ``interpolation``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = FPNConfig
    config: FPNConfig
    align_corners = True

    @built_from(FPNConfig)
    def __init__(self, config: FPNConfig) -> None:
        super().__init__(config)
        self.decoder = FPNDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, kernel=1, dropout=config.dropout
        )

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The last four maps, or as many as there are."""
        return Wants(most=_LEVELS)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the size of the finest."""
        logits: Tensor = self.head(self.decoder(maps))
        return logits
