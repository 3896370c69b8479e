"""DeepLabV3+ on any encoder.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
2018, figure 2. The layers are those of segmentation_models_pytorch, so that its checkpoints can be
brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig, built_from
from ..features import FeatureSpec
from ..nn.layers import ConvNormAct, SegmentationHead
from ..registry import register_architecture
from .aspp import ASPP, ASPPConfig, SeparableConv, rates_for
from .base import SegmentationModel
from .decoder_config import width
from .wants import Wants


@dataclass(frozen=True, kw_only=True)
class DeepLabV3PlusConfig(ASPPConfig):
    """Arguments of :class:`DeepLabV3Plus`, on top of those that pyramid pooling shares.

    Args:
        separable: As in :class:`~segzoo.architectures.aspp.ASPPConfig`.
        skip_channels: Width that the encoder's fine map is projected to.
    """

    separable: bool = True
    skip_channels: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        width("skip_channels", self.skip_channels)


class DeepLabV3PlusDecoder(nn.Module):
    """The finest and the deepest map -> a map of the size of the finest.

    Args:
        features: What the maps are, finest first; the first and the last are used.
        config: The options.

    Attributes:
        rates: Rates of the dilated branches.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: DeepLabV3PlusConfig) -> None:
        super().__init__()
        finest, deepest = features[0], features[-1]
        channels, norm = config.decoder_channels, config.norm
        self.align_corners = config.align_corners
        self.rates = rates_for(config, deepest.stride)
        self.aspp = ASPP(deepest.channels, self.rates, config)
        self.refine = SeparableConv(channels, channels, norm=norm)
        self.skip = ConvNormAct(finest.channels, config.skip_channels, kernel=1, norm=norm)
        self.fuse = SeparableConv(channels + config.skip_channels, channels, norm=norm)
        self.out = FeatureSpec(channels, finest.stride)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of ``features`` -> ``(N, out.channels, h, w)``."""
        fine = maps[0]
        size = (fine.shape[-2], fine.shape[-1])
        x = self.refine(self.aspp(maps[-1]))
        x = F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)
        out: Tensor = self.fuse(torch.cat([x, self.skip(fine)], dim=1))
        return out


@register_architecture("deeplabv3plus")
class DeepLabV3Plus(SegmentationModel):
    """DeepLabV3+ on any encoder: image ``(N, in_channels, H, W)`` -> ``(N, classes, H, W)``.

    The encoder shrinks the image to a sixteenth where it can (``output_stride``); its deepest map
    goes through the pyramid pooling of :class:`DeepLabV3`, is resized to the encoder's map of
    stride 4 and joined with it; the logits are resized to the image.

    >>> model = segzoo.DeepLabV3Plus("resnet18", classes=3)
    >>> model.encoder.strides, model.config.atrous_rates
    ((2, 4, 8, 16, 16), (6, 12, 18))
    >>> model.eval()(torch.rand(1, 3, 97, 64)).shape
    torch.Size([1, 3, 97, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`DeepLabV3PlusConfig` for
            ``decoder_channels``, ``atrous_rates``, ``separable``, ``skip_channels``,
            ``aspp_dropout``, ``align_corners``, ``norm`` and ``dropout``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = DeepLabV3PlusConfig
    config: DeepLabV3PlusConfig

    @built_from(DeepLabV3PlusConfig)
    def __init__(self, config: DeepLabV3PlusConfig) -> None:
        super().__init__(config)
        self.align_corners = config.align_corners
        self.decoder = DeepLabV3PlusDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, kernel=1, dropout=config.dropout
        )
        self.config = replace(self.config, atrous_rates=self.decoder.rates)

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The map of stride 4, or the next, and the deepest, of stride 16 if it can be had."""
        return Wants(doubles=True, finest=4, ends=True, output_stride=16)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the size of the finest."""
        logits: Tensor = self.head(self.decoder(maps))
        return logits
