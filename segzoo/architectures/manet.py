"""MA-Net on any encoder.

Fan, Wang, Li and Wang, "MA-Net: A Multi-Scale Attention Network for Liver and Tumor Segmentation",
2020, with a pretrained backbone as the encoder. Widths and layers are those of
segmentation_models_pytorch, so that its checkpoints can be brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import built_from
from ..features import FeatureSpec
from ..nn.layers import ConvNormAct, resize, zero_bias
from ..nn.position_attention import PositionAttention
from ..nn.upsample_conv import conv_joined
from ..registry import register_architecture
from .climbing_decoder import ClimbingDecoder
from .climbing_model import ClimbingModel
from .decoder_config import JoiningConfig, block_widths, width
from .unet import UnetBlock

#: The bottleneck of a gate is narrower than its map by this factor, as in the paper on squeeze and
#: excitation.
_REDUCTION = 16


@dataclass(frozen=True, kw_only=True)
class MAnetConfig(JoiningConfig):
    """Arguments of :class:`MAnet`, on top of what such decoders share.

    ``attention`` is beside the attention that a MA-Net has anyway; its authors have none.

    Args:
        attention_channels: Width of the query and of the key of the position-wise attention.
    """

    attention_channels: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        width("attention_channels", self.attention_channels)


class ChannelGate(nn.Module):
    """A factor between 0 and 1 for each channel (Hu et al., "Squeeze-and-Excitation", 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // _REDUCTION, 1)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)
        for conv in (self.squeeze, self.excite):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            zero_bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> ``(N, channels, 1, 1)``."""
        factor: Tensor = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        return factor.sigmoid()


class FusionBlock(UnetBlock):
    """The multi-scale fusion attention block: bring the map to the skip's width, gate it, join.

    The gate of a channel is the sum of two, one of the map from below and one of the skip; it
    scales the map from below only.

    Args:
        in_channels: Channels of the map from below.
        skip_channels: Channels of the skip connection, at least 1.
        out_channels: Channels of the result.
        config: Its norm, attention and interpolation.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, config: MAnetConfig
    ) -> None:
        super().__init__(skip_channels, skip_channels, out_channels, config)
        self.project = nn.Sequential(
            ConvNormAct(in_channels, in_channels, norm=config.norm),
            ConvNormAct(in_channels, skip_channels, kernel=1, norm=config.norm),
        )
        self.gate = ChannelGate(skip_channels)
        self.skip_gate = ChannelGate(skip_channels)

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None,
        size: tuple[int, int],
        between: Sequence[Tensor] = (),
    ) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, *size)``; the skip has that size."""
        assert skip is not None  # a block without one is a UnetBlock
        x = self.project(x)
        # Doubling repeats cells: the gate, a function of means, is the same before and after.
        rewrites = self._rewrites(x, size)
        if not rewrites:
            x = resize(x, size, mode=self.interpolation)
        x = x * (self.gate(x) + self.skip_gate(skip))
        if rewrites:
            conv = self.conv1.conv
            x = self.conv1.finish(conv_joined(x, skip, conv.weight, conv.bias))
        else:
            x = self.conv1(self.attention1(torch.cat([x, skip], dim=1)))
        out: Tensor = self.attention2(self.conv2(x))
        return out


class MAnetDecoder(ClimbingDecoder):
    """Encoder maps -> one map at stride 1: attention on the deepest, then fusion blocks.

    Args:
        features: What the maps are, finest first, one at each stride.
        config: The options; its widths are one for each of
            :func:`~segzoo.features.decoder_strides`.

    Attributes:
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: MAnetConfig) -> None:
        super().__init__(features)
        self.channels = block_widths(config, features)
        deepest = features[-1].channels
        self.center = PositionAttention(deepest, config.attention_channels)
        below = (deepest, *self.channels)
        walk = zip(below, self.skips, self.strides, self.channels, strict=False)
        self.blocks = nn.ModuleList(
            UnetBlock(inside, 0, out, config, attend_input=stride > 1)
            if skip is None
            else FusionBlock(inside, features[skip].channels, out, config)
            for inside, skip, stride, out in walk
        )
        self.out = FeatureSpec(below[-1], 1)
        self.compute(config)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps of ``features``, the image's ``(height, width)`` -> ``(N, out.channels, *size)``."""
        return self.climb(self.center(maps[-1]), maps, size)


@register_architecture("manet")
class MAnet(ClimbingModel):
    """MA-Net on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    >>> model = segzoo.MAnet("resnet18", classes=3)
    >>> model(torch.rand(1, 3, 50, 61)).shape
    torch.Size([1, 3, 50, 61])

    The attention at the deepest map compares every cell with every other, which is quadratic in the
    number of cells: at stride 32 that is nothing (an image of 1024x1024 has a million pairs), at
    stride 8 (``depth=3``) it is most of the work. Where pairs are more than 16 million, they are
    computed block by block, so that memory stays small; only a compiled or exported model holds
    them all at once (:mod:`segzoo.nn.position_attention`).

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`MAnetConfig` for
            ``decoder_channels``, ``attention_channels``, ``norm``, ``attention``, ``dropout``,
            ``interpolation``, ``decoder_impl`` and ``checkpoint``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = MAnetConfig
    config: MAnetConfig
    decoder: MAnetDecoder

    @built_from(MAnetConfig)
    def __init__(self, config: MAnetConfig) -> None:
        super().__init__(config)
        self._complete_with(MAnetDecoder(self.features, config))
