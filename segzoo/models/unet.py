"""U-Net on any encoder.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
2015, figure 1, with a pretrained backbone as the contracting path (Iglovikov and Shvets,
"TernausNet", 2018, figure 2). The decoder's layers are those of segmentation_models_pytorch, so
that its checkpoints can be brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..config import ModelConfig, built_from
from ..errors import ArgumentError
from ..features import FeatureSpec, ceil_div, decoder_strides
from ..layers import (
    ATTENTIONS,
    INTERPOLATIONS,
    NORMS,
    ConvNormAct,
    SegmentationHead,
    attention_layer,
)
from .architectures import register_architecture
from .base import SegmentationModel

#: No decoder is wider than this; it keeps a config from asking for the memory of a data centre.
MAX_CHANNELS = 8192


@dataclass(frozen=True, kw_only=True)
class UnetConfig(ModelConfig):
    """Arguments of :class:`Unet`, on top of what every architecture takes.

    Args:
        decoder_channels: Width of each decoder block, deepest first; None for 256, 128, 64, 32,
            16, continued upwards with 256 where the encoder is deeper, and cut where it is not.
        norm: ``batch``, ``group``, ``instance``, ``layer`` or ``none``.
        attention: ``none`` or ``scse``, before and after the convolutions of each block (before
            only where the block joins maps or is not the last).
        center: Two more convolutions on the encoder's deepest map, for encoders that end in a
            pooling layer (VGG, as in TernausNet).
        dropout: Probability of dropping a plane of the decoder's last map, 0 to 1.
        interpolation: How a block resizes its input: ``nearest``, ``bilinear``, ``bicubic``,
            ``area`` or ``nearest-exact``.
        rounding: Where the encoder has no map to take a block's size from: the image's size over
            the stride, rounded ``up``, or ``down`` as segmentation_models_pytorch does.
    """

    decoder_channels: tuple[int, ...] | None = None
    norm: str = "batch"
    attention: str = "none"
    center: bool = False
    dropout: float = 0.0
    interpolation: str = "nearest"
    rounding: str = "up"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_channels is not None:
            self._set(
                decoder_channels=checks.sequence("decoder_channels", self.decoder_channels, _width)
            )
        checks.choice("norm", self.norm, NORMS)
        checks.choice("attention", self.attention, ATTENTIONS)
        checks.flag("center", self.center)
        checks.choice("interpolation", self.interpolation, INTERPOLATIONS)
        checks.choice("rounding", self.rounding, ("up", "down"))
        self._set(dropout=checks.number("dropout", self.dropout, minimum=0, maximum=1))


def _width(name: str, value: int) -> int:
    return checks.integer(name, value, minimum=1, maximum=MAX_CHANNELS)


class UnetBlock(nn.Module):
    """Resize to the target, concatenate the skip, two convolutions.

    Args:
        in_channels: Of the map from below.
        skip_channels: Of the skip connection; 0 where the encoder has no map at this stride.
        out_channels: Of the result.
        attend_input: Whether there is attention before the convolutions too.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        norm: str = "batch",
        attention: str = "none",
        attend_input: bool = True,
        interpolation: str = "nearest",
    ) -> None:
        super().__init__()
        joined = in_channels + skip_channels
        self.interpolation = interpolation
        self.attention1 = attention_layer(attention if attend_input else "none", joined)
        self.conv1 = ConvNormAct(joined, out_channels, norm=norm)
        self.conv2 = ConvNormAct(out_channels, out_channels, norm=norm)
        self.attention2 = attention_layer(attention, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, *size)``."""
        x = F.interpolate(x, size, mode=self.interpolation)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        out: Tensor = self.attention2(self.conv2(self.conv1(self.attention1(x))))
        return out


class UnetDecoder(nn.Module):
    """Encoder maps -> one map at stride 1.

    From the deepest map the decoder walks to the image, halving the stride; wherever the encoder
    has a map at the stride it arrives at, that map is the skip connection. Sizes are those of the
    skips, or the image's size over the stride: never a guess of times two.

    Args:
        features: What the maps are, finest first, one at each stride.
        channels: Width of each block, deepest first, one for each of
            :func:`~segzoo.features.decoder_strides`; None for the default.

    Attributes:
        out: What the result is.
    """

    def __init__(
        self,
        features: Sequence[FeatureSpec],
        channels: Sequence[int] | None = None,
        *,
        norm: str = "batch",
        attention: str = "none",
        center: bool = False,
        interpolation: str = "nearest",
        rounding: str = "up",
    ) -> None:
        super().__init__()
        self.rounding = rounding
        self.strides = decoder_strides(features)
        if channels is None:
            channels = [min(16 << i, 256) for i in reversed(range(len(self.strides)))]
        if len(channels) != len(self.strides):
            raise ArgumentError(
                f"decoder_channels must have {len(self.strides)} values, one for each of the "
                f"strides {self.strides} from stride {features[-1].stride} to the image; got "
                f"{len(channels)}: {tuple(channels)}."
            )
        at = {feature.stride: i for i, feature in enumerate(features[:-1])}
        #: For each block the index of the encoder's map that is its skip, or None.
        self.skips = tuple(at.get(stride) for stride in self.strides)
        self.channels = tuple(channels)
        deepest = features[-1].channels
        self.center: nn.Module = nn.Identity()
        if center:
            self.center = nn.Sequential(
                ConvNormAct(deepest, deepest, norm=norm), ConvNormAct(deepest, deepest, norm=norm)
            )
        self.blocks = nn.ModuleList(
            UnetBlock(
                below,
                0 if skip is None else features[skip].channels,
                width,
                norm=norm,
                attention=attention,
                attend_input=skip is not None or stride > 1,
                interpolation=interpolation,
            )
            for below, skip, stride, width in zip(
                (deepest, *channels), self.skips, self.strides, channels, strict=False
            )
        )
        self.out = FeatureSpec(channels[-1] if channels else deepest, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps of ``features``, the image's ``(height, width)`` -> ``(N, out.channels, *size)``."""
        x: Tensor = self.center(maps[-1])
        for block, index, stride in zip(self.blocks, self.skips, self.strides, strict=True):
            skip = None if index is None else maps[index]
            if stride == 1 or skip is None:
                target = self._size(size, stride)
            else:
                target = (skip.shape[-2], skip.shape[-1])
            x = block(x, skip, target)
        return x

    def _size(self, size: tuple[int, int], stride: int) -> tuple[int, int]:
        """Of a map at a stride where the encoder has none."""
        if self.rounding == "down":
            return max(size[0] // stride, 1), max(size[1] // stride, 1)
        return ceil_div(size[0], stride), ceil_div(size[1], stride)


@register_architecture("unet")
class Unet(SegmentationModel):
    """U-Net on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    >>> model = segzoo.Unet("resnet34", classes=3)
    >>> model(torch.rand(1, 3, 250, 317)).shape
    torch.Size([1, 3, 250, 317])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`UnetConfig` for
            ``decoder_channels``, ``norm``, ``attention``, ``center``, ``dropout``,
            ``interpolation`` and ``rounding``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = UnetConfig
    config: UnetConfig

    @built_from(UnetConfig)
    def __init__(self, config: UnetConfig) -> None:
        super().__init__(config)
        self.decoder = UnetDecoder(
            self.features,
            config.decoder_channels,
            norm=config.norm,
            attention=config.attention,
            center=config.center,
            interpolation=config.interpolation,
            rounding=config.rounding,
        )
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, dropout=config.dropout
        )
        self.config = replace(self.config, decoder_channels=self.decoder.channels)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the image's size."""
        logits: Tensor = self.head(self.decoder(maps, (image.shape[-2], image.shape[-1])))
        return logits
