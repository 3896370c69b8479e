"""Layers that architectures share."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .graph_capture import in_graph, serves_other_sizes
from .recomputed_norm import normalised

#: Batch normalisation of every kind that torch has, for ``isinstance`` too.
BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
#: Normalisation layers by name; ``none`` gives the convolution a bias instead.
NORMS = ("batch", "group", "instance", "layer", "none")
#: Attention modules by name.
ATTENTIONS = ("none", "scse")
#: How a map can be resized, by the name that torch gives them.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "nearest-exact")
#: Up to this side torch's ``nearest`` is right. For output ``i`` it takes cell ``i * n / side``,
#: rounded down, in float32. Where ``side`` is ``n - 1`` or ``2 * n - 1`` that comes as near to the
#: next whole number as ``1 / side``, and the error is below ``n / 2**23``: so it can be wrong once
#: ``n * side`` reaches ``2**23`` (and is, from sides of 3227 and 4189 on).
_RIGHT_IN_FLOAT32 = 2895


def resize(x: Tensor, size: tuple[int, int], *, mode: str) -> Tensor:
    """The map ``(N, C, h, w)`` at ``size`` = (height, width).

    What torch gives, but with the right cells on long sides too. A decoder's target is twice a map,
    or one less where a side was odd; ``nearest`` is then to repeat each cell, and to leave out the
    last. From the quotient of the sides torch finds hundreds of wrong cells of 199,999 and none of
    200,000; so it is told the whole factor.

    Args:
        mode: One of :data:`INTERPOLATIONS`.
    """
    # A graph for any size cannot know which case it will be in. It leaves the cells to its runtime;
    # ONNX Runtime and OpenVINO find about as many wrong ones as torch.
    if mode != "nearest" or serves_other_sizes(x) or max(size) <= _RIGHT_IN_FLOAT32:
        return F.interpolate(x, size, mode=mode)
    sides = list(zip(x.shape[-2:], size, strict=True))
    factors = [next((k for k in (1, 2) if side in (k * n - 1, k * n)), None) for n, side in sides]
    if in_graph():  # other runtimes take a size or factors: make the whole multiple, and cut it
        whole = [side if k is None else k * n for k, (n, side) in zip(factors, sides, strict=True)]
        return F.interpolate(x, whole, mode=mode)[..., : size[0], : size[1]]
    out: Tensor = torch.ops.aten.upsample_nearest2d(x, size, *factors)
    return out


def is_channels_last(module: nn.Module) -> bool:
    """Whether a module's weights lie as ``.to(memory_format=torch.channels_last)`` puts them.

    The first that can tell decides: a 1x1 kernel lies in both ways at once.
    """
    for weight in module.parameters():
        if weight.ndim == 4:
            last = weight.is_contiguous(memory_format=torch.channels_last)
            if last != weight.is_contiguous():
                return last
    return False


def as_weights_lie(x: Tensor, module: nn.Module) -> Tensor:
    """The map, copied to lie plane by plane in memory where the module's weights do.

    A convolution with plain weights computes in the layout of its map, and each layout adds up in
    its own order. With weights in channels last it computes in that, whatever the map's layout is:
    there a copy would be for nothing.
    """
    if isinstance(x, fx.Proxy) or is_channels_last(module):
        return x
    return x.contiguous()


class InstanceNorm2d(nn.Module):
    """Normalise each plane of each image by itself (Ulyanov et al., 2016); affine.

    Works for a plane of a single cell too (torch's own layer refuses it): its value becomes the
    bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> the same shape."""
        return torch.instance_norm(
            x, self.weight, self.bias, None, None, True, 0.0, 1e-5, torch.backends.cudnn.enabled
        )


class ChannelNorm2d(nn.LayerNorm):
    """Normalise each cell over its channels, as ConvNeXt does (Liu et al., 2022)."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> the same shape."""
        out: Tensor = super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


def norm_layer(norm: str, channels: int) -> nn.Module:
    """A layer of :data:`NORMS` for maps of that many channels.

    Group normalisation (Wu and He, 2018) takes up to 32 groups of at least two channels.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(
            math.gcd(32, max(channels // 2, 1)) if channels % 2 == 0 else 1, channels
        )
    if norm == "instance":
        return InstanceNorm2d(channels)
    if norm == "layer":
        return ChannelNorm2d(channels)
    return nn.Identity()


def zero_bias(conv: nn.Conv2d) -> None:
    """Start a convolution's bias, where it has one, at zero."""
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class ConvNormAct(nn.Module):
    """Convolution, normalisation, ReLU; the convolution has a bias where ``norm`` is none.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result, which has the map's height and width.
        kernel: Side of the convolution's window, odd.
        dilation: Cells from one of its taps to the next.
        bias: Whether the convolution has one all the same.
        norm: One of :data:`NORMS`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        dilation: int = 1,
        bias: bool = False,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            bias=bias or norm == "none",
        )
        self.norm = norm_layer(norm, out_channels)
        self.act = nn.ReLU(inplace=True)
        nn.init.kaiming_uniform_(self.conv.weight, nonlinearity="relu")
        zero_bias(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        return self.finish(self.conv(x))

    def finish(self, x: Tensor) -> Tensor:
        """What comes after the convolution."""
        return normalised(x, self.norm, self.act)


class SCSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation (Roy et al., 2018, figure 1d).

    Args:
        channels: Channels of the map; any number.
        reduction: The bottleneck has ``channels // reduction`` channels, at least one.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)
        self.spatial = nn.Conv2d(channels, 1, 1)
        for conv in (self.squeeze, self.excite, self.spatial):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            zero_bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> the same shape."""
        channel: Tensor = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        spatial: Tensor = self.spatial(x)
        return x * channel.sigmoid() + x * spatial.sigmoid()


def attention_layer(attention: str, channels: int) -> nn.Module:
    """A module of :data:`ATTENTIONS` for maps of that many channels."""
    return SCSE(channels) if attention == "scse" else nn.Identity()


class SegmentationHead(nn.Module):
    """Dropout of whole planes, then a convolution to the logits.

    Dropping planes rather than cells is Tompson et al., 2015: neighbouring cells are alike, so
    dropping one of them hides nothing.

    Args:
        in_channels: Channels of the map.
        classes: Number of logits for each cell.
        kernel: Side of the convolution's window, odd.
        dropout: Probability of dropping a plane, 0 to 1.
    """

    def __init__(
        self, in_channels: int, classes: int, *, kernel: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(in_channels, classes, kernel, padding=kernel // 2)
        nn.init.xavier_uniform_(self.conv.weight)
        zero_bias(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``."""
        logits: Tensor = self.conv(self.dropout(x))
        return logits
