"""U-Net on any encoder.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
2015, figure 1, with a pretrained backbone as the contracting path (Iglovikov and Shvets,
"TernausNet", 2018, figure 2). The decoder's layers are those of segmentation_models_pytorch, so
that its checkpoints can be brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from .. import checks
from ..config import NOT_SAVED, ModelConfig, built_from
from ..features import FeatureSpec, ceil_div, decoder_strides
from ..nn.activation_checkpoint import recomputed
from ..nn.layers import (
    ConvNormAct,
    SegmentationHead,
    as_weights_lie,
    attention_layer,
    resize,
)
from ..nn.upsample_conv import conv_joined, doubles, is_untouched
from ..registry import register_architecture
from .base import SegmentationModel
from .decoder_config import BlocksConfig, block_widths, checkpointed_blocks

#: How a block joins its inputs: see :class:`UnetBlock`.
DECODER_IMPLS = ("auto", "plain", "rewritten")
#: Where training with the rewritten form was measured and is no slower; see docs/benchmarks.md.
_REWRITTEN_DEVICES = frozenset({"cpu"})


@dataclass(frozen=True, kw_only=True)
class UnetConfig(BlocksConfig):
    """Arguments of :class:`Unet`, on top of what such decoders share.

    Args:
        center: Two more convolutions on the encoder's deepest map, for encoders that end in a
            pooling layer (VGG, as in TernausNet).
        rounding: Where the encoder has no map to take a block's size from: the image's size over
            the stride, rounded ``up``, or ``down`` as segmentation_models_pytorch does.
        decoder_impl: How a block joins its inputs: ``plain``, ``rewritten`` without the
            concatenation wherever that is the same, or ``auto``; see :class:`UnetBlock`.
    """

    center: bool = False
    rounding: str = "up"
    decoder_impl: str = field(default="auto", metadata=NOT_SAVED)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("center", self.center)
        checks.choice("rounding", self.rounding, ("up", "down"))
        checks.choice("decoder_impl", self.decoder_impl, DECODER_IMPLS)


class UnetBlock(nn.Module):
    """Resize to the target, concatenate the skip, two convolutions.

    Where the target is twice the map and cells are repeated, the first convolution can be computed
    from the map and the skip as they are (:mod:`segzoo.nn.upsample_conv`): the same weights,
    outputs and gradients up to rounding, with fewer multiply-adds, and no concatenation to be kept.

    Args:
        in_channels: Of the map from below.
        skip_channels: Of the skip connection; 0 where the encoder has no map at this stride.
        out_channels: Of the result.
        config: Its norm, attention and interpolation.
        attend_input: Whether there is attention before the convolutions too.

    Attributes:
        impl: ``plain``, ``rewritten`` wherever it holds, or ``auto``: rewritten in training mode
            where it pays. In eval mode ``auto`` is plain, to the bit.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        config: BlocksConfig,
        *,
        attend_input: bool = True,
    ) -> None:
        super().__init__()
        joined = in_channels + skip_channels
        self.out_channels = out_channels
        self.interpolation = config.interpolation
        self.impl = "auto"
        #: Whether smp joins an empty map here, which makes the result lie plane by plane.
        self.joins_nothing = attend_input and not skip_channels
        self.attention1 = attention_layer(config.attention if attend_input else "none", joined)
        self.conv1 = ConvNormAct(joined, out_channels, norm=config.norm)
        self.conv2 = ConvNormAct(out_channels, out_channels, norm=config.norm)
        self.attention2 = attention_layer(config.attention, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, *size)``."""
        if self._rewrites(x, size):
            conv = self.conv1.conv
            x = self.conv1.finish(conv_joined(x, skip, conv.weight, conv.bias))
        else:
            x = resize(x, size, mode=self.interpolation)
            if skip is not None:
                x = torch.cat([x, skip], dim=1)
            elif self.joins_nothing:
                x = as_weights_lie(x, self.conv1)
            x = self.conv1(self.attention1(x))
        out: Tensor = self.attention2(self.conv2(x))
        return out

    def _rewrites(self, x: Tensor, size: tuple[int, int]) -> bool:
        """Whether the first convolution is to be computed without the concatenation."""
        wanted = self.impl == "rewritten" or (self.impl == "auto" and self._pays(x))
        return (
            wanted
            and is_untouched(self.attention1, nn.Identity)
            and is_untouched(self.conv1, ConvNormAct)
            and is_untouched(self.conv1.conv, nn.Conv2d)
            and doubles(x, size, self.interpolation)
        )

    def _pays(self, x: Tensor) -> bool:
        """In training, where the doubled map is larger than the kernel that takes its place."""
        trains = self.training and x.device.type in _REWRITTEN_DEVICES
        return trains and x.numel() >= 4 * x.shape[1] * self.out_channels


class UnetDecoder(nn.Module):
    """Encoder maps -> one map at stride 1.

    From the deepest map the decoder walks to the image, halving the stride; wherever the encoder
    has a map at the stride it arrives at, that map is the skip connection. Sizes are those of the
    skips, or the image's size over the stride: never a guess of times two.

    Args:
        features: What the maps are, finest first, one at each stride.
        config: The options; its widths are one for each of
            :func:`~segzoo.features.decoder_strides`.

    Attributes:
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: UnetConfig) -> None:
        super().__init__()
        self.rounding = config.rounding
        self.strides = decoder_strides(features)
        channels = block_widths(config, features)
        at = {feature.stride: i for i, feature in enumerate(features[:-1])}
        #: For each block the index of the encoder's map that is its skip, or None.
        self.skips = tuple(at.get(stride) for stride in self.strides)
        self.channels = channels
        deepest = features[-1].channels
        self.center: nn.Module = nn.Identity()
        if config.center:
            self.center = nn.Sequential(
                *(ConvNormAct(deepest, deepest, norm=config.norm) for _ in range(2))
            )
        self.blocks = nn.ModuleList(
            UnetBlock(
                below,
                0 if skip is None else features[skip].channels,
                width,
                config,
                attend_input=skip is not None or stride > 1,
            )
            for below, skip, stride, width in zip(
                (deepest, *channels), self.skips, self.strides, channels, strict=False
            )
        )
        self.out = FeatureSpec(channels[-1] if channels else deepest, 1)
        self.compute(config)

    def compute(self, config: UnetConfig) -> None:
        """Set how the blocks compute from here on, and how many of the last keep nothing.

        Raises:
            ArgumentError: There are not that many blocks.
        """
        self.checkpoint = checkpointed_blocks(config, len(self.blocks))
        for block in self.blocks:
            assert isinstance(block, UnetBlock)
            block.impl = config.decoder_impl

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps of ``features``, the image's ``(height, width)`` -> ``(N, out.channels, *size)``."""
        x: Tensor = self.center(maps[-1])
        kept = len(self.blocks)
        if self.training and torch.is_grad_enabled():
            kept -= self.checkpoint
        walk = zip(self.blocks, self.skips, self.strides, strict=True)
        for i, (block, index, stride) in enumerate(walk):
            skip = None if index is None else maps[index]
            if stride == 1 or skip is None:
                target = self._size(size, stride)
            else:
                target = (skip.shape[-2], skip.shape[-1])
            x = block(x, skip, target) if i < kept else recomputed(block, x, skip, target)
        return x

    def _size(self, size: tuple[int, int], stride: int) -> tuple[int, int]:
        """Of a map at a stride where the encoder has none."""
        if self.rounding == "down":
            # torch's own maximum, so that a size may be a symbol in a graph.
            height, width = (torch.sym_max(side // stride, 1) for side in size)
            return cast("int", height), cast("int", width)
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
            ``interpolation``, ``rounding``, ``decoder_impl`` and ``checkpoint``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = UnetConfig
    config: UnetConfig

    @built_from(UnetConfig)
    def __init__(self, config: UnetConfig) -> None:
        super().__init__(config)
        self.decoder = UnetDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, dropout=config.dropout
        )
        self.config = replace(self.config, decoder_channels=self.decoder.channels)

    def set_computing(self, config: ModelConfig) -> None:
        """Make the decoder compute as the options of ``config`` that are not saved say."""
        assert isinstance(config, UnetConfig)
        self.decoder.compute(config)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the image's size."""
        logits: Tensor = self.head(self.decoder(maps, (image.shape[-2], image.shape[-1])))
        return logits
