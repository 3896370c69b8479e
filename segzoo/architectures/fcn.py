"""FCN on any encoder: one convolution and a classifier on the deepest map.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", 2015, figure
1. The layers are those of torchvision, so that its checkpoints can be brought over: where the paper
refines coarse logits by finer maps, the encoder is dilated, and logits are resized bilinearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..config import ModelConfig, built_from
from ..features import FeatureSpec
from ..nn.layers import ConvNormAct, SegmentationHead
from ..registry import register_architecture
from .base import SegmentationModel
from .decoder_config import DecoderConfig, width
from .wants import Wants


@dataclass(frozen=True, kw_only=True)
class FCNConfig(DecoderConfig):
    """Arguments of :class:`FCN`, on top of what decoders share.

    Args:
        norm: As in :class:`~segzoo.architectures.decoder_config.DecoderConfig`.
        dropout: As there.
        decoder_channels: Width of the decoder; None for a quarter of the encoder's deepest map.
    """

    dropout: float = 0.1
    decoder_channels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_channels is not None:
            width("decoder_channels", self.decoder_channels)


class FCNDecoder(nn.Module):
    """The deepest map -> a map of its size.

    Args:
        features: What the maps are; the last is used.
        config: The options.

    Attributes:
        conv: The 3x3 convolution.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: FCNConfig) -> None:
        super().__init__()
        deepest = features[-1]
        channels = config.decoder_channels or max(deepest.channels // 4, 1)
        self.conv = ConvNormAct(deepest.channels, channels, norm=config.norm)
        self.out = FeatureSpec(channels, deepest.stride)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of ``features`` -> ``(N, out.channels, h, w)``."""
        out: Tensor = self.conv(maps[-1])
        return out


@register_architecture("fcn")
class FCN(SegmentationModel):
    """FCN on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    The encoder shrinks the image to an eighth where it can (``output_stride``); its deepest map is
    classified, and the logits are resized to the image.

    >>> model = segzoo.FCN("resnet18", classes=3)
    >>> model.encoder.strides
    (2, 4, 8, 8, 8)
    >>> model(torch.rand(1, 3, 97, 64)).shape
    torch.Size([1, 3, 97, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`FCNConfig` for
            ``decoder_channels``, ``norm`` and ``dropout``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = FCNConfig
    config: FCNConfig
    align_corners = False

    @built_from(FCNConfig)
    def __init__(self, config: FCNConfig) -> None:
        super().__init__(config)
        self.decoder = FCNDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, kernel=1, dropout=config.dropout
        )

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The encoder's own deepest map, of stride 8 if it can be had."""
        return Wants(own_maps=True, most=1, output_stride=8)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the size of the deepest."""
        logits: Tensor = self.head(self.decoder(maps))
        return logits
