"""fastai's DynamicUnet, on any encoder.

The encoder's maps go through a bridge (batch norm, ReLU, two convolutions), then up again by
sub-pixel convolutions, each block taking the map of its stride as a skip connection. A last
sub-pixel convolution reaches the image, which is itself concatenated ("last cross") before a
residual block and the logits.

The architecture is that of ``fastai.vision.models.unet`` (Howard and Gugger, "fastai: A Layered API
for Deep Learning", 2020, section 2.3); with a ResNet and the same weights the outputs on a CPU are
equal to the last bit. Sub-pixel convolution is Shi et al., 2016, its initialisation (ICNR) and the
blur after it Sugawara et al., 2018, the attention Zhang et al., "Self-Attention GAN", 2019, figure
2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import checks
from ..config import ModelConfig, built_from
from ..errors import ArgumentError
from ..features import FeatureSpec, ceil_div, decoder_strides
from ..registry import register_architecture
from .base import SegmentationModel
from .dynamic_unet_layers import (
    ACTIVATIONS,
    DYNAMIC_NORMS,
    ConvLayer,
    SelfAttention,
    Upsample,
    map_norm,
    resize_nearest,
)


@dataclass(frozen=True, kw_only=True)
class DynamicUnetConfig(ModelConfig):
    """Arguments of :class:`DynamicUnet`, on top of what every architecture takes.

    Args:
        blur: Average neighbours after each pixel shuffle, against checkerboard patterns.
        blur_final: With ``blur``, also in the last block.
        self_attention: Attend over all cells in the last block but two (at stride 8 for a ResNet);
            memory grows with the square of the number of cells.
        y_range: ``(low, high)``: squeeze the outputs into that range by a sigmoid; None for plain
            logits.
        last_cross: Concatenate the image itself before the last block.
        bottle: Halve the width of that last block.
        act: ``elu``, ``gelu``, ``hardswish``, ``leaky_relu``, ``mish``, ``relu``, ``selu`` or
            ``silu``.
        norm: ``none``, ``batch``, ``instance``, ``weight`` or ``spectral``, for every convolution
            of the decoder, the one that gives the logits included.
    """

    blur: bool = False
    blur_final: bool = True
    self_attention: bool = False
    y_range: tuple[float, float] | None = None
    last_cross: bool = True
    bottle: bool = False
    act: str = "relu"
    norm: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("blur", "blur_final", "self_attention", "last_cross", "bottle"):
            checks.flag(name, getattr(self, name))
        checks.choice("act", self.act, ACTIVATIONS)
        checks.choice("norm", self.norm, DYNAMIC_NORMS)
        if self.bottle and not self.last_cross:
            raise ArgumentError(
                "bottle narrows the block that last_cross adds; with last_cross=False there is "
                "nothing to narrow. Leave bottle out."
            )
        if self.y_range is not None:
            bounds = checks.sequence("y_range", self.y_range, _bound, longest=2)
            if len(bounds) != 2 or bounds[0] >= bounds[1]:
                raise ArgumentError(
                    f"y_range must be (low, high) with low < high, got {self.y_range!r}."
                )
            self._set(y_range=bounds)


def _bound(name: str, value: float) -> float:
    return checks.number(name, value, minimum=-1e30, maximum=1e30)


class Bridge(nn.Module):
    """Batch norm, ReLU and two convolutions below the deepest map."""

    def __init__(self, channels: int, *, norm: str, act: str) -> None:
        super().__init__()
        # fastai fills these kernels again, too late where a norm holds the real ones already.
        late = norm in ("weight", "spectral")
        init = nn.init.kaiming_uniform_ if late else nn.init.kaiming_normal_
        self.norm = map_norm("batch", channels)
        self.act = nn.ReLU(inplace=True)
        self.conv1 = ConvLayer(channels, 2 * channels, norm=norm, act=act, init=init)
        self.conv2 = ConvLayer(2 * channels, channels, norm=norm, act=act, init=init)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> the same shape."""
        out: Tensor = self.conv2(self.conv1(self.act(self.norm(x))))
        return out


class DynamicUnetBlock(nn.Module):
    """Up, concatenate the normalised skip, activate, two convolutions.

    Args:
        in_channels: Channels of the map from below.
        skip_channels: Channels of the skip connection; 0 where the encoder has no map at this
            stride.
        halve: Give half of the concatenated channels instead of all.

    Attributes:
        out_channels: Channels of the result.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        *,
        halve: bool,
        blur: bool,
        attention: bool,
        norm: str,
        act: str,
    ) -> None:
        super().__init__()
        init = nn.init.kaiming_uniform_ if norm == "weight" else nn.init.kaiming_normal_
        above = max(in_channels // 2, 1)
        joined = above + skip_channels
        self.out_channels = max(joined // 2, 1) if halve else joined
        # ReLU twice is ReLU once: where nothing stands between the two, only the second is done,
        # and training has one map less to keep.
        once = act == "relu" and not blur
        self.up = Upsample(in_channels, above, norm=norm, act=None if once else act, blur=blur)
        self.norm = map_norm("batch" if skip_channels else "none", skip_channels)
        self.act = ACTIVATIONS[act]() if skip_channels or once else nn.Identity()
        self.conv1 = ConvLayer(joined, self.out_channels, norm=norm, act=act, init=init)
        self.conv2 = ConvLayer(self.out_channels, self.out_channels, norm=norm, act=act, init=init)
        self.attention = SelfAttention(self.out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, *size)``."""
        x = self.up(x, size, None if skip is None else self.norm(skip))
        out: Tensor = self.attention(self.conv2(self.conv1(self.act(x))))
        return out


class Refine(nn.Module):
    """A residual block at the image's full size.

    Args:
        channels: Channels of the map.
        bottle: Give half of them, with a projection as the shortcut.
    """

    def __init__(self, channels: int, *, bottle: bool, norm: str, act: str) -> None:
        super().__init__()
        self.out_channels = channels // 2 if bottle else channels
        late = norm == "weight"  # see Bridge
        init = nn.init.kaiming_uniform_ if late else nn.init.kaiming_normal_
        self.conv1 = ConvLayer(channels, self.out_channels, norm=norm, act=act, init=init)
        self.conv2 = ConvLayer(
            self.out_channels,
            self.out_channels,
            norm=norm,
            act=None,
            init=None if late else nn.init.kaiming_normal_,
            zero=True,
        )
        self.shortcut: nn.Module = nn.Identity()
        if bottle:
            self.shortcut = ConvLayer(
                channels,
                self.out_channels,
                1,
                norm="batch",
                act=None,
                init=nn.init.kaiming_normal_,
            )
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        out: Tensor = self.act(self.conv2(self.conv1(x)).add_(self.shortcut(x)))
        return out


class DynamicUnetDecoder(nn.Module):
    """Encoder maps and image -> one map of the image's size.

    From the deepest map the decoder walks to the image, halving the stride; wherever the encoder
    has a map at the stride it arrives at, that map is the skip connection. fastai's decoder is
    this walk for a ResNet.

    Args:
        features: What the maps are, finest first, one at each stride.
        config: The options.

    Attributes:
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: DynamicUnetConfig) -> None:
        super().__init__()
        norm, act = config.norm, config.act
        skips = {feature.stride: i for i, feature in enumerate(features[:-1])}
        walk = decoder_strides(features)
        # Without a map of stride 1 the last step is no block, only a way to the image's size.
        self.strides = tuple(stride for stride in walk if stride > 1 or stride in skips)
        #: For each block the index of the encoder's map that is its skip, or None.
        self.skips = tuple(skips.get(stride) for stride in self.strides)
        count = len(self.strides)
        if config.self_attention and count < 3:
            raise ArgumentError(
                "self_attention goes into the last block but two; this decoder has "
                f"{count}, for maps of the strides {[item.stride for item in features]}. Use a "
                "deeper encoder, or leave self_attention out."
            )
        width = features[-1].channels
        self.bridge = Bridge(width, norm=norm, act=act)
        self.blocks = nn.ModuleList()
        for i, skip in enumerate(self.skips):
            last = i == count - 1
            block = DynamicUnetBlock(
                width,
                0 if skip is None else features[skip].channels,
                halve=last,
                blur=config.blur and (config.blur_final or not last),
                attention=config.self_attention and i == count - 3,
                norm=norm,
                act=act,
            )
            self.blocks.append(block)
            width = block.out_channels
        self.last_cross = config.last_cross
        self.up: nn.Module | None = None
        if len(walk) > count:
            late = config.last_cross and act == "relu"
            self.up = Upsample(width, width, norm=norm, act=act, late_relu=late)
        self.refine: nn.Module = nn.Identity()
        if config.last_cross:
            joined = width + config.in_channels
            self.refine = Refine(joined, bottle=config.bottle, norm=norm, act=act)
            width = self.refine.out_channels
        self.out = FeatureSpec(width, 1)

    def forward(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features``, the image ``(N, C, H, W)`` -> ``(N, out.channels, H, W)``."""
        size = (image.shape[-2], image.shape[-1])
        x = self.bridge(maps[-1])
        for block, index, stride in zip(self.blocks, self.skips, self.strides, strict=True):
            skip = None if index is None else maps[index]
            if skip is None:
                target = (ceil_div(size[0], stride), ceil_div(size[1], stride))
            else:
                target = (skip.shape[-2], skip.shape[-1])
            x = block(x, skip, target)
        beside = image if self.last_cross else None
        if self.up is not None:
            x = self.up(x, size, beside)
        elif beside is not None:
            x = torch.cat([resize_nearest(x, size), beside], dim=1)
        else:
            x = resize_nearest(x, size)
        out: Tensor = self.refine(x)
        return out


@register_architecture("dynamic_unet")
class DynamicUnet(SegmentationModel):
    """fastai's U-Net on any encoder: image ``(N, in_channels, H, W)`` -> ``(N, classes, H, W)``.

    >>> model = segzoo.DynamicUnet("resnet18", classes=3)
    >>> model(torch.rand(1, 3, 50, 61)).shape
    torch.Size([1, 3, 50, 61])

    It costs about four times as much as :class:`Unet`; ``last_cross=False`` saves more than a
    third of that.

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`DynamicUnetConfig` for
            ``blur``, ``blur_final``, ``self_attention``, ``y_range``, ``last_cross``, ``bottle``,
            ``act`` and ``norm``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = DynamicUnetConfig
    config: DynamicUnetConfig

    @built_from(DynamicUnetConfig)
    def __init__(self, config: DynamicUnetConfig) -> None:
        super().__init__(config)
        self.decoder = DynamicUnetDecoder(self.features, config)
        self.head = ConvLayer(
            self.decoder.out.channels, config.classes, 1, norm=config.norm, act=None, init=None
        )
        if isinstance(self.head.conv.bias, Tensor):
            nn.init.normal_(self.head.conv.bias, 0.0, 0.01)

    @property
    def threshold(self) -> float:
        """With one class: the output above which a pixel belongs to it, the middle of y_range."""
        return sum(self.config.y_range) / 2 if self.config.y_range else 0.0

    @property
    def gives_logits(self) -> bool:
        """Whether outputs are logits: not those of a ``y_range``."""
        return self.config.y_range is None

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` and the image -> logits (or values in ``y_range``) of its size."""
        logits: Tensor = self.head(self.decoder(maps, image))
        if self.config.y_range is None:
            return logits
        low, high = self.config.y_range
        return logits.sigmoid() * (high - low) + low
