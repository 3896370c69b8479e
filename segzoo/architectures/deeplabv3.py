"""DeepLabV3 on any encoder.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, figure 5. The
layers are those of segmentation_models_pytorch and of torchvision, so that their checkpoints can be
brought over: unlike the paper they have a 3x3 convolution behind the pyramid pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..config import ModelConfig, built_from
from ..features import FeatureSpec
from ..nn.layers import ConvNormAct, SegmentationHead
from ..registry import register_architecture
from .aspp import ASPP, ASPPConfig, rates_for
from .base import SegmentationModel
from .wants import Wants


@dataclass(frozen=True, kw_only=True)
class DeepLabV3Config(ASPPConfig):
    """Arguments of :class:`DeepLabV3`: those that decoders with pyramid pooling share."""


class DeepLabV3Decoder(nn.Module):
    """The deepest map -> a map of its size.

    Args:
        features: What the maps are; the last is used.
        config: The options.

    Attributes:
        rates: Rates of the dilated branches.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: DeepLabV3Config) -> None:
        super().__init__()
        deepest, channels = features[-1], config.decoder_channels
        self.rates = rates_for(config, deepest.stride)
        self.aspp = ASPP(deepest.channels, self.rates, config)
        self.conv = ConvNormAct(channels, channels, norm=config.norm)
        self.out = FeatureSpec(channels, deepest.stride)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of ``features`` -> ``(N, out.channels, h, w)``."""
        out: Tensor = self.conv(self.aspp(maps[-1]))
        return out


@register_architecture("deeplabv3")
class DeepLabV3(SegmentationModel):
    """DeepLabV3 on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    The encoder shrinks the image to an eighth where it can (``output_stride``); its deepest map is
    looked at through windows of several widths and classified, and the logits are resized.

    >>> model = segzoo.DeepLabV3("resnet18", classes=3)
    >>> model.encoder.strides, model.config.atrous_rates
    ((2, 4, 8, 8, 8), (12, 24, 36))
    >>> model.eval()(torch.rand(1, 3, 97, 64)).shape
    torch.Size([1, 3, 97, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`DeepLabV3Config` for
            ``decoder_channels``, ``atrous_rates``, ``separable``, ``aspp_dropout``,
            ``align_corners``, ``norm`` and ``dropout``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = DeepLabV3Config
    config: DeepLabV3Config

    @built_from(DeepLabV3Config)
    def __init__(self, config: DeepLabV3Config) -> None:
        super().__init__(config)
        self.align_corners = config.align_corners
        self.decoder = DeepLabV3Decoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, kernel=1, dropout=config.dropout
        )
        self.config = replace(self.config, atrous_rates=self.decoder.rates)

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The encoder's own deepest map, of stride 8 if it can be had."""
        return Wants(own_maps=True, most=1, output_stride=8)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the size of the deepest."""
        logits: Tensor = self.head(self.decoder(maps))
        return logits
