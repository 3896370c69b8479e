"""Atrous spatial pyramid pooling: one map seen through windows of several widths at once.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, section 3.3 and
figure 5; with depthwise separable convolutions as in Chen et al., "Encoder-Decoder with Atrous
Separable Convolution for Semantic Image Segmentation", 2018, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..config import WHEN_SET
from ..nn.layers import ConvNormAct
from .decoder_config import WidthConfig

#: The branches look this many pixels of the image to each side, where no rates are given: rates of
#: 6, 12 and 18 on a map of stride 16 and twice that at stride 8, as in the paper.
_REACHES = (96, 192, 288)
#: No branch looks further, in cells of its map: a larger rate only pads.
MAX_RATE = 512


@dataclass(frozen=True, kw_only=True)
class ASPPConfig(WidthConfig):
    """What decoders with atrous spatial pyramid pooling can be told.

    Args:
        atrous_rates: The rate of each dilated branch; None for 6, 12 and 18 on a map of stride 16,
            and in proportion on others, so that they look as far in the image: 12, 24 and 36 at
            stride 8.
        separable: Whether the branches' convolutions are depthwise separable.
        aspp_dropout: Probability of dropping a value behind the branches, 0 to 1.
        align_corners: Whether maps and logits are resized with the corners of the outermost cells
            aligned, or, as torchvision does, their edges.
    """

    atrous_rates: tuple[int, ...] | None = None
    separable: bool = False
    aspp_dropout: float = 0.5
    align_corners: bool = field(default=True, metadata=WHEN_SET)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.atrous_rates is not None:
            rates = checks.sequence("atrous_rates", self.atrous_rates, _rate, longest=16)
            self._set(atrous_rates=rates)
        checks.flag("separable", self.separable)
        self._set(
            aspp_dropout=checks.number("aspp_dropout", self.aspp_dropout, minimum=0, maximum=1)
        )
        checks.flag("align_corners", self.align_corners)


def _rate(name: str, value: Any) -> int:
    return checks.integer(name, value, minimum=1, maximum=MAX_RATE)


def rates_for(config: ASPPConfig, stride: int) -> tuple[int, ...]:
    """The rates of the branches on a map of that stride."""
    if config.atrous_rates is not None:
        return config.atrous_rates
    return tuple(max(round(reach / stride), 1) for reach in _REACHES)


class SeparableConv(nn.Module):
    """A depthwise convolution, then a pointwise one with normalisation and ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, dilation: int = 1, norm: str = "batch"
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels,
            in_channels,
            3,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, kernel=1, norm=norm)
        nn.init.kaiming_uniform_(self.depthwise.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


def norm_of_a_cell(norm: str) -> str:
    """The norm for maps of a single cell: to normalise each plane would leave nothing of it."""
    return "none" if norm == "instance" else norm


class ImagePooling(nn.Module):
    """What the whole map has in common, at each of its cells."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "batch") -> None:
        super().__init__()
        self.unit = ConvNormAct(in_channels, out_channels, kernel=1, norm=norm_of_a_cell(norm))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        size = (x.shape[-2], x.shape[-1])
        pooled: Tensor = self.unit(F.adaptive_avg_pool2d(x, 1))
        return F.interpolate(pooled, size, mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """A 1x1 convolution, dilated ones and the pooled image side by side, then projected.

    Args:
        in_channels: Channels of the map.
        rates: One dilated branch for each.
        config: The options.
    """

    def __init__(self, in_channels: int, rates: tuple[int, ...], config: ASPPConfig) -> None:
        super().__init__()
        channels, norm = config.decoder_channels, config.norm
        self.point = ConvNormAct(in_channels, channels, kernel=1, norm=norm)
        atrous = SeparableConv if config.separable else ConvNormAct
        self.atrous = nn.ModuleList(
            atrous(in_channels, channels, dilation=rate, norm=norm) for rate in rates
        )
        self.pool = ImagePooling(in_channels, channels, norm=norm)
        self.project = ConvNormAct((2 + len(rates)) * channels, channels, kernel=1, norm=norm)
        self.dropout = nn.Dropout(config.aspp_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, decoder_channels, H, W)``."""
        branches = [self.point(x), *(branch(x) for branch in self.atrous), self.pool(x)]
        out: Tensor = self.dropout(self.project(torch.cat(branches, dim=1)))
        return out
