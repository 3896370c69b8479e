"""LR-ASPP on any encoder: the deepest map, gated by its mean, and a finer one, both classified.

Howard et al., "Searching for MobileNetV3", 2019, section 6.4 and figure 10. The layers are those of
torchvision, so that its checkpoints can be brought over: unlike in the paper the gate looks at the
mean of the whole map, not of windows of 49x49 cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig, built_from
from ..features import FeatureSpec
from ..nn.layers import ConvNormAct, SegmentationHead
from ..registry import register_architecture
from .base import SegmentationModel
from .decoder_config import WidthConfig
from .wants import Wants

#: The finer map has at least this stride.
_FINEST = 8


@dataclass(frozen=True, kw_only=True)
class LRASPPConfig(WidthConfig):
    """Arguments of :class:`LRASPP`, those of a decoder of one width.

    Args:
        dropout: Probability of dropping a plane of either map in front of its classifier.
        decoder_channels: Width of the deep branch.
    """

    decoder_channels: int = 128


class Gate(nn.Module):
    """One factor between 0 and 1 for each channel, from the mean of a map.

    Args:
        in_channels: Channels of the map.
        channels: How many factors.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, channels, 1, 1)``."""
        logits: Tensor = self.conv(F.adaptive_avg_pool2d(x, 1))
        return logits.sigmoid()


class LRASPPDecoder(nn.Module):
    """The finest and the deepest map -> a map of the size of the finest.

    Args:
        features: What the maps are, finest first; the first and the last are used.
        config: The options.

    Attributes:
        project: Projects the deepest map.
        gate: What the projected map is multiplied by.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: LRASPPConfig) -> None:
        super().__init__()
        deepest, channels = features[-1].channels, config.decoder_channels
        self.project = ConvNormAct(deepest, channels, kernel=1, norm=config.norm)
        self.gate = Gate(deepest, channels)
        self.out = FeatureSpec(channels, features[0].stride)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of ``features`` -> ``(N, out.channels, h, w)``."""
        fine, deep = maps[0], maps[-1]
        gated = self.project(deep) * self.gate(deep)
        size = (fine.shape[-2], fine.shape[-1])
        return F.interpolate(gated, size=size, mode="bilinear", align_corners=False)


@register_architecture("lraspp")
class LRASPP(SegmentationModel):
    """LR-ASPP on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    A light decoder for phones. The encoder shrinks the image to a sixteenth where it can
    (``output_stride``); its deepest map, each channel scaled by what the whole image has of it, and
    the finest map of stride 8 or more are classified, and the sum of the logits is resized.

    >>> model = segzoo.LRASPP("mobilenetv3_large_100", classes=3)
    >>> model.encoder.strides, [feature.stride for feature in model.features]
    ((2, 4, 8, 16, 16), [8, 16])
    >>> model(torch.rand(2, 3, 97, 64)).shape
    torch.Size([2, 3, 97, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`LRASPPConfig` for
            ``decoder_channels``, ``norm`` and ``dropout``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = LRASPPConfig
    config: LRASPPConfig
    align_corners = False

    @built_from(LRASPPConfig)
    def __init__(self, config: LRASPPConfig) -> None:
        super().__init__(config)
        classes, dropout = config.classes, config.dropout
        self.decoder = LRASPPDecoder(self.features, config)
        fine, deep = self.features[0].channels, self.decoder.out.channels
        self.fine_head = SegmentationHead(fine, classes, kernel=1, dropout=dropout)
        self.head = SegmentationHead(deep, classes, kernel=1, dropout=dropout)

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The finest map of stride 8 or more, and the deepest, of stride 16 if it can be had."""
        return Wants(doubles=True, finest=_FINEST, ends=True, output_stride=16)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the size of the finest."""
        logits: Tensor = self.fine_head(maps[0]) + self.head(self.decoder(maps))
        return logits
