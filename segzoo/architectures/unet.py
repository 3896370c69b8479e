"""U-Net on any encoder.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
2015, figure 1, with a pretrained backbone as the contracting path (Iglovikov and Shvets,
"TernausNet", 2018, figure 2). The decoder's layers are those of segmentation_models_pytorch, so
that its checkpoints can be brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from .. import checks
from ..config import built_from
from ..features import FeatureSpec
from ..nn.layers import ConvNormAct, as_weights_lie, attention_layer, resize
from ..nn.upsample_conv import conv_joined, doubles, runs_as_written
from ..registry import register_architecture
from .climbing_decoder import ClimbingDecoder, JoiningBlock
from .climbing_model import ClimbingModel
from .decoder_config import BlocksConfig, JoiningConfig, block_widths

#: Where training with the rewritten form was measured and is no slower; see docs/benchmarks.md.
_REWRITTEN_DEVICES = frozenset({"cpu"})


@dataclass(frozen=True, kw_only=True)
class UnetConfig(JoiningConfig):
    """Arguments of :class:`Unet`, on top of what such decoders share.

    Args:
        center: Two more convolutions on the encoder's deepest map, for encoders that end in a
            pooling layer (VGG, as in TernausNet).
        rounding: Where the encoder has no map to take a block's size from: the image's size over
            the stride, rounded ``up``, or ``down`` as segmentation_models_pytorch does.
    """

    center: bool = False
    rounding: str = "up"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("center", self.center)
        checks.choice("rounding", self.rounding, ("up", "down"))


class UnetBlock(JoiningBlock):
    """Resize to the target, concatenate the skip, two convolutions.

    Where the target is twice the map and cells are repeated, the first convolution can be computed
    from the map and the skip as they are (:mod:`segzoo.nn.upsample_conv`): the same weights,
    outputs and gradients up to rounding, with fewer multiply-adds, and no concatenation to be kept.

    Args:
        in_channels: Channels of the map from below.
        skip_channels: Channels of the skip connection; 0 where the encoder has no map at this
            stride.
        out_channels: Channels of the result.
        config: Its norm, attention and interpolation.
        attend_input: Whether there is attention before the convolutions too.

    Attributes:
        impl: ``plain``, ``rewritten`` wherever it holds, or ``auto``: rewritten in training mode
            where it pays. In eval mode ``auto`` is plain.
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
        #: Whether smp joins an empty map here, which makes the result lie plane by plane.
        self.joins_nothing = attend_input and not skip_channels
        self.attention1 = attention_layer(config.attention if attend_input else "none", joined)
        self.conv1 = ConvNormAct(joined, out_channels, norm=config.norm)
        self.conv2 = ConvNormAct(out_channels, out_channels, norm=config.norm)
        self.attention2 = attention_layer(config.attention, out_channels)

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None,
        size: tuple[int, int],
        between: Sequence[Tensor] = (),
    ) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, *size)``.

        Args:
            skip: ``(N, S, *size)``, or None where the encoder has no map of that size.
            between: More maps of that size, which come before the skip; the channels of all of
                them together are ``skip_channels``.
        """
        if self._rewrites(x, size):
            conv = self.conv1.conv
            if skip is not None and between:
                skip = torch.cat([*between, skip], dim=1)
            x = self.conv1.finish(conv_joined(x, skip, conv.weight, conv.bias))
        else:
            x = resize(x, size, mode=self.interpolation)
            if skip is not None:
                x = torch.cat([x, *between, skip], dim=1)
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
            and runs_as_written(self.attention1, nn.Identity)
            and runs_as_written(self.conv1, ConvNormAct)
            and runs_as_written(self.conv1.conv, nn.Conv2d)
            and doubles(x, size, self.interpolation)
        )

    def _pays(self, x: Tensor) -> bool:
        """In training, where the doubled map is larger than the kernel that takes its place."""
        trains = self.training and x.device.type in _REWRITTEN_DEVICES
        return trains and x.numel() >= 4 * x.shape[1] * self.out_channels


class UnetDecoder(ClimbingDecoder):
    """Encoder maps -> one map at stride 1.

    Args:
        features: What the maps are, finest first, one at each stride.
        config: The options; its widths are one for each of
            :func:`~segzoo.features.decoder_strides`.

    Attributes:
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: UnetConfig) -> None:
        super().__init__(features)
        self.rounding = config.rounding
        channels = block_widths(config, features)
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

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps of ``features``, the image's ``(height, width)`` -> ``(N, out.channels, *size)``."""
        return self.climb(self.center(maps[-1]), maps, size)

    def missing_size(self, size: tuple[int, int], stride: int) -> tuple[int, int]:
        """The size of a map at a stride where the encoder has none, rounded as the config says."""
        if self.rounding == "down":
            # torch's own maximum, so that a size may be a symbol in a graph.
            height, width = (torch.sym_max(side // stride, 1) for side in size)
            return cast("int", height), cast("int", width)
        return super().missing_size(size, stride)


@register_architecture("unet")
class Unet(ClimbingModel):
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
    decoder: UnetDecoder

    @built_from(UnetConfig)
    def __init__(self, config: UnetConfig) -> None:
        super().__init__(config)
        self._complete_with(UnetDecoder(self.features, config))
