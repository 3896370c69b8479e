"""UPerNet: pyramid pooling on top of a feature pyramid, on any encoder.

Xiao, Liu, Zhou, Jiang and Sun, "Unified Perceptual Parsing for Scene Understanding", 2018, section
3, with one head. The layers are those of segmentation_models_pytorch, so that its checkpoints can
be brought over: unlike in the paper each of the encoder's maps is normalised first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..config import WHEN_SET, ModelConfig, built_from
from ..features import FeatureSpec
from ..nn.lateral import Lateral
from ..nn.layers import ChannelNorm2d, ConvNormAct, SegmentationHead
from ..nn.pyramid_pooling import PyramidPooling
from ..registry import register_architecture
from .base import SegmentationModel
from .decoder_config import WidthConfig
from .wants import Wants

#: Maps of a smaller stride are left out, as in the paper.
_FINEST = 4


@dataclass(frozen=True, kw_only=True)
class UPerNetConfig(WidthConfig):
    """Arguments of :class:`UPerNet`, on top of those of a decoder of one width.

    Args:
        align_corners: Whether logits are resized with the corners of the outermost cells aligned,
            or, as in transformers, their edges.
        map_eps: Epsilon of the norms of the encoder's maps, above 0.
    """

    align_corners: bool = field(default=True, metadata=WHEN_SET)
    map_eps: float = field(default=1e-6, metadata=WHEN_SET)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("align_corners", self.align_corners)
        self._set(map_eps=checks.number("map_eps", self.map_eps, minimum=1e-12, maximum=1))


class UPerNetDecoder(nn.Module):
    """Encoder maps -> one map of the size of the finest.

    Args:
        features: What the maps are, finest first.
        config: The options.

    Attributes:
        norms: One for each map, finest first: over the channels of each cell.
        pooling: Pyramid pooling of the deepest map.
        top: What it becomes: the deepest level of the pyramid.
        laterals: From each level to the next finer one, deepest first.
        refine: A convolution for each level but the deepest, deepest first.
        fuse: From all levels to the result.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: UPerNetConfig) -> None:
        super().__init__()
        channels, norm = config.decoder_channels, config.norm
        self.norms = nn.ModuleList(
            ChannelNorm2d(feature.channels, eps=config.map_eps) for feature in features
        )
        self.pooling = PyramidPooling(
            features[-1].channels,
            channels,
            norm=norm,
            align_corners=False,
            norm_of_one_bin=True,
            map_first=True,
        )
        self.top = ConvNormAct(self.pooling.out_channels, channels, norm=norm)
        finer = features[-2::-1]
        self.laterals = nn.ModuleList(
            Lateral(
                ConvNormAct(feature.channels, channels, kernel=1, norm=norm),
                interpolation="bilinear",
            )
            for feature in finer
        )
        self.refine = nn.ModuleList(ConvNormAct(channels, channels, norm=norm) for _ in finer)
        self.fuse = ConvNormAct(len(features) * channels, channels, norm=norm)
        self.out = FeatureSpec(channels, features[0].stride)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of ``features`` -> ``(N, out.channels, h, w)``."""
        normed = [norm(item) for norm, item in zip(self.norms, maps, strict=True)]
        levels: list[Tensor] = [self.top(self.pooling(normed[-1]))]
        for lateral, skip in zip(self.laterals, normed[-2::-1], strict=True):
            levels.append(lateral(skip, levels[-1]))
        # The sums go down as they are; only what is joined is refined.
        refined = [levels[0], *(conv(x) for conv, x in zip(self.refine, levels[1:], strict=True))]
        finest = refined[-1]
        size = (finest.shape[-2], finest.shape[-1])
        resized = [F.interpolate(x, size=size, mode="bilinear") for x in refined[-2::-1]]
        out: Tensor = self.fuse(torch.cat([finest, *resized], dim=1))
        return out


@register_architecture("upernet")
class UPerNet(SegmentationModel):
    """UPerNet on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    The deepest map is pooled over grids of 1, 2, 3 and 6 bins a side, and is the top of a feature
    pyramid over all maps of stride 4 and more; its levels are joined and classified at the size of
    the finest, and the logits are resized to the image.

    >>> model = segzoo.UPerNet("resnet18", classes=3)
    >>> model(torch.rand(2, 3, 97, 64)).shape
    torch.Size([2, 3, 97, 64])

    Training with batch normalisation needs at least two images: a branch sees one value for each
    channel and image.

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`UPerNetConfig` for
            ``norm``, ``dropout``, ``decoder_channels``, ``align_corners`` and ``map_eps``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = UPerNetConfig
    config: UPerNetConfig

    @built_from(UPerNetConfig)
    def __init__(self, config: UPerNetConfig) -> None:
        super().__init__(config)
        self.align_corners = config.align_corners
        self.decoder = UPerNetDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, kernel=1, dropout=config.dropout
        )

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """All maps of stride 4 and more."""
        return Wants(finest=_FINEST)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the size of the finest."""
        logits: Tensor = self.head(self.decoder(maps))
        return logits
