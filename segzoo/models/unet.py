"""U-Net on any encoder.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
2015, figure 1, with a pretrained backbone as the contracting path (Iglovikov and Shvets,
"TernausNet", 2018, figure 2). The decoder's layers are those of segmentation_models_pytorch, so
that its checkpoints can be brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..config import NOT_SAVED, ModelConfig, built_from
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
from ..recomputed import recomputed
from ..upsampled import conv_joined, doubles, is_untouched
from .architectures import register_architecture
from .base import SegmentationModel

if TYPE_CHECKING:
    from typing_extensions import Self

#: How a block joins its inputs: see :class:`UnetBlock`.
DECODER_IMPLS = ("auto", "plain", "rewritten")
#: Where training with the rewritten form was measured and is no slower; see docs/benchmarks.md.
_REWRITTEN_DEVICES = frozenset({"cpu"})
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
    decoder_impl: str = field(default="auto", metadata=NOT_SAVED)
    checkpoint: bool | int = field(default=False, metadata=NOT_SAVED)

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
        checks.choice("decoder_impl", self.decoder_impl, DECODER_IMPLS)
        if not isinstance(self.checkpoint, bool):
            checks.integer("checkpoint", self.checkpoint, minimum=0, maximum=1024)


def _width(name: str, value: int) -> int:
    return checks.integer(name, value, minimum=1, maximum=MAX_CHANNELS)


class UnetBlock(nn.Module):
    """Resize to the target, concatenate the skip, two convolutions.

    Where the target is twice the map and cells are repeated, the first convolution can be computed
    from the map and the skip as they are (:mod:`segzoo.upsampled`): the same weights, outputs and
    gradients up to rounding, with fewer multiply-adds, and no concatenation to be kept.

    Args:
        in_channels: Of the map from below.
        skip_channels: Of the skip connection; 0 where the encoder has no map at this stride.
        out_channels: Of the result.
        attend_input: Whether there is attention before the convolutions too.
        impl: ``plain``, ``rewritten`` wherever it holds, or ``auto``: rewritten in training mode
            where it pays. In eval mode ``auto`` is plain.
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
        impl: str = "auto",
    ) -> None:
        super().__init__()
        joined = in_channels + skip_channels
        self.out_channels = out_channels
        self.interpolation = interpolation
        self.impl = impl
        self.attention1 = attention_layer(attention if attend_input else "none", joined)
        self.conv1 = ConvNormAct(joined, out_channels, norm=norm)
        self.conv2 = ConvNormAct(out_channels, out_channels, norm=norm)
        self.attention2 = attention_layer(attention, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, *size)``."""
        if self._rewrites(x, size):
            conv = self.conv1.conv
            x = self.conv1.finish(conv_joined(x, skip, conv.weight, conv.bias))
        else:
            x = F.interpolate(x, size, mode=self.interpolation)
            if skip is not None:
                x = torch.cat([x, skip], dim=1)
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
        impl: str = "auto",
        checkpoint: bool | int = False,
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
        self.compute(impl, checkpoint)

    def compute(self, impl: str, checkpoint: bool | int) -> None:
        """Set how the blocks compute from here on, and how many of the last keep nothing.

        Raises:
            ArgumentError: There are not that many blocks.
        """
        count = len(self.blocks)
        if checkpoint > count:
            raise ArgumentError(
                f"checkpoint must be between 0 and {count}, the number of the decoder's blocks; "
                f"got {checkpoint}."
            )
        self.checkpoint = min(2, count) if checkpoint is True else int(checkpoint)
        for block in self.blocks:
            assert isinstance(block, UnetBlock)
            block.impl = impl

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
        self.decoder = UnetDecoder(
            self.features,
            config.decoder_channels,
            norm=config.norm,
            attention=config.attention,
            center=config.center,
            interpolation=config.interpolation,
            rounding=config.rounding,
            impl=config.decoder_impl,
            checkpoint=config.checkpoint,
        )
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, dropout=config.dropout
        )
        self.config = replace(self.config, decoder_channels=self.decoder.channels)

    def configure_training(
        self, *, decoder_impl: str | None = None, checkpoint: bool | int | None = None
    ) -> Self:
        """Set how the decoder computes, for a model that is there already; returns the model.

        >>> model = segzoo.Unet("resnet18").configure_training(checkpoint=2)
        >>> model.config.checkpoint
        2

        Weights and results stay what they are, and nothing of it is saved with the model: it
        belongs to the machine that a model is trained on.

        Args:
            decoder_impl: As in :class:`UnetConfig`; None leaves it as it is.
            checkpoint: As in :class:`UnetConfig`; None leaves it as it is.

        Raises:
            ArgumentError: There is no such way, or there are not that many blocks.
        """
        config = replace(
            self.config,
            decoder_impl=self.config.decoder_impl if decoder_impl is None else decoder_impl,
            checkpoint=self.config.checkpoint if checkpoint is None else checkpoint,
        )
        self.decoder.compute(config.decoder_impl, config.checkpoint)
        self.config = config
        return self

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the image's size."""
        logits: Tensor = self.head(self.decoder(maps, (image.shape[-2], image.shape[-1])))
        return logits
