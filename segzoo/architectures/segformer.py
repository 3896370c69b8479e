"""SegFormer's decoder on any encoder: every map projected by itself, then all of them mixed once.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
2021, section 3.2 and figure 2. The layers are those of segmentation_models_pytorch, so that its
checkpoints can be brought over; as there, a map of stride 2 takes part where the encoder has one.
The encoder of the paper, MiT, begins at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..config import WHEN_SET, built_from
from ..features import FeatureSpec, ceil_div
from ..nn.layers import ConvNormAct, SegmentationHead
from ..registry import register_architecture
from .base import SegmentationModel
from .decoder_config import WidthConfig

#: The decoder works at a quarter of the image's size.
_STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class SegformerConfig(WidthConfig):
    """Arguments of :class:`Segformer`, on top of those of a decoder of one width.

    Args:
        align_corners: Whether logits are resized with the corners of the outermost cells aligned,
            or, as in the paper's code and in transformers, their edges.
    """

    align_corners: bool = field(default=True, metadata=WHEN_SET)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("align_corners", self.align_corners)


class Projection(nn.Module):
    """A linear layer on the channels of each cell.

    As a product of cells and weights, not as a 1x1 convolution, which sums in another order: so
    the bits are those of the models that checkpoints come from.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        cells = self.linear(x.flatten(2).transpose(1, 2)).transpose(1, 2)
        out: Tensor = cells.unflatten(2, (x.shape[-2], x.shape[-1]))
        return out


class SegformerDecoder(nn.Module):
    """Encoder maps -> one map at a quarter of the image, or of the finest map if that is smaller.

    Args:
        features: What the maps are, finest first, one at each stride.
        config: The options.

    Attributes:
        projections: One for each map, deepest first.
        fuse: From all of them to the result.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: SegformerConfig) -> None:
        super().__init__()
        channels = config.decoder_channels
        stride = max(features[0].stride, _STRIDE)
        strides = [feature.stride for feature in features]
        #: The index of the map that has the size of the result, or None.
        self.at = strides.index(stride) if stride in strides else None
        self.projections = nn.ModuleList(
            Projection(feature.channels, channels) for feature in reversed(features)
        )
        self.fuse = ConvNormAct(len(features) * channels, channels, kernel=1, norm=config.norm)
        self.out = FeatureSpec(channels, stride)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps of ``features``, the image's ``(height, width)`` -> ``(N, out.channels, h, w)``."""
        if self.at is None:
            target = ceil_div(size[0], self.out.stride), ceil_div(size[1], self.out.stride)
        else:
            target = (maps[self.at].shape[-2], maps[self.at].shape[-1])
        parts = [
            F.interpolate(project(x), size=target, mode="bilinear", align_corners=False)
            for project, x in zip(self.projections, reversed(maps), strict=True)
        ]
        out: Tensor = self.fuse(torch.cat(parts, dim=1))
        return out


@register_architecture("segformer")
class Segformer(SegmentationModel):
    """SegFormer on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    Every map is projected cell by cell and resized to a quarter of the image; there they are mixed
    and classified, and the logits are resized to the image.

    >>> model = segzoo.Segformer("resnet18", classes=3)
    >>> model(torch.rand(1, 3, 97, 64)).shape
    torch.Size([1, 3, 97, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`SegformerConfig` for
            ``norm``, ``dropout``, ``decoder_channels`` and ``align_corners``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = SegformerConfig
    config: SegformerConfig

    @built_from(SegformerConfig)
    def __init__(self, config: SegformerConfig) -> None:
        super().__init__(config)
        self.align_corners = config.align_corners
        self.decoder = SegformerDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, kernel=1, dropout=config.dropout
        )

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` and their image -> logits at a quarter of its size."""
        logits: Tensor = self.head(self.decoder(maps, (image.shape[-2], image.shape[-1])))
        return logits
