"""The layers of :mod:`segzoo.architectures.dynamic_unet`, initialised as fastai does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.graph_capture import in_graph
from ..nn.layers import InstanceNorm2d, resize, zero_bias
from ..nn.weight_norm import SpectralNormConv, WeightNormConv

#: Activations by name.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),
    "mish": nn.Mish,
    "relu": partial(nn.ReLU, inplace=True),
    "selu": nn.SELU,
    "silu": nn.SiLU,
}
#: ``batch`` and ``instance`` normalise maps, ``weight`` and ``spectral`` normalise kernels.
DYNAMIC_NORMS = ("batch", "instance", "none", "spectral", "weight")

Init = Callable[[Tensor], Tensor]


def icnr_(weight: Tensor) -> Tensor:
    """Fill a kernel before a pixel shuffle so that the four cells it makes of one start equal.

    Sugawara et al., "Super-Resolution using Convolutional Neural Networks without Any Checkerboard
    Artifacts", 2018, section 3: initialise for the small map, repeat for every sub-pixel.
    """
    small = nn.init.kaiming_normal_(weight.new_empty(weight.shape[0] // 4, *weight.shape[1:]))
    with torch.no_grad():
        return weight.copy_(small.repeat_interleave(4, dim=0))


def resize_nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The map ``(N, C, h, w)`` at ``size`` = (height, width)."""
    if not in_graph() and x.shape[-2:] == size:
        return x
    return resize(x, size, mode="nearest")


def pixel_shuffle(x: Tensor) -> Tensor:
    """``(N, 4 * C, h, w)`` -> ``(N, C, 2 * h, 2 * w)``, in the memory format of the input.

    The same as torch's function, whose kernel for the CPU is slower.
    """
    if in_graph():
        return F.pixel_shuffle(x, 2)
    count, planes, height, width = x.shape
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        cells = x.permute(0, 2, 3, 1).view(count, height, width, planes // 4, 2, 2)
        cells = cells.permute(0, 1, 4, 2, 5, 3)
        return cells.reshape(count, 2 * height, 2 * width, planes // 4).permute(0, 3, 1, 2)
    cells = x.reshape(count, planes // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return cells.reshape(count, planes // 4, 2 * height, 2 * width)


class PartedConv2d(nn.Conv2d):
    """A convolution whose outputs are computed in two parts where that is faster.

    For CPUs oneDNN handles output channels in blocks of 16 (or 8), and handles a prime number of
    blocks badly: 99 channels are 7 blocks. The largest power of two first and then the rest give
    the same values in less time (benchmarks/dynamic_unet.py).
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        if in_graph() or torch.is_grad_enabled() or input.device.type != "cpu":
            return super().forward(input)
        if self.out_channels <= 64 or self.out_channels % 16 == 0 or not input.is_contiguous():
            return super().forward(input)
        first = 1 << (self.out_channels.bit_length() - 1)
        weights = self.weight[:first], self.weight[first:]
        biases = (None, None) if self.bias is None else (self.bias[:first], self.bias[first:])
        parts = [
            F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation)
            for weight, bias in zip(weights, biases, strict=True)
        ]
        return torch.cat(parts, dim=1)


class ConvLayer(nn.Module):
    """Convolution, normalisation, activation.

    Args:
        norm: One of :data:`DYNAMIC_NORMS`.
        act: One of :data:`ACTIVATIONS`, or None.
        init: Fills the kernel; None for what torch does.
        zero: Scale by zero at first, so that a residual block starts as the identity.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        norm: str,
        act: str | None,
        init: Init | None,
        zero: bool = False,
    ) -> None:
        super().__init__()
        bias = norm not in ("batch", "instance")
        conv = PartedConv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias
        )
        if init is not None:
            init(conv.weight)
        zero_bias(conv)
        self.conv: nn.Module = conv
        if norm == "weight":
            self.conv = WeightNormConv(conv.weight, conv.bias)
        elif norm == "spectral":
            self.conv = SpectralNormConv(conv.weight, conv.bias)
        self.norm = map_norm(norm, out_channels, zero=zero)
        self.act = nn.Identity() if act is None else ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


def map_norm(norm: str, channels: int, *, zero: bool = False) -> nn.Module:
    """What normalises maps; fastai's layers begin with this small bias."""
    if norm not in ("batch", "instance"):
        return nn.Identity()
    layer = nn.BatchNorm2d(channels) if norm == "batch" else InstanceNorm2d(channels)
    nn.init.constant_(layer.bias, 1e-3)
    nn.init.constant_(layer.weight, 0.0 if zero else 1.0)
    return layer


def shuffle_beside(x: Tensor, beside: Tensor) -> Tensor:
    """Pixel shuffle and concatenation in one pass, without gradients.

    ``(N, 4 * C, h, w)`` and ``(N, B, 2 * h, 2 * w)`` -> ``(N, C + B, 2 * h, 2 * w)``.
    """
    count, planes, height, width = x.shape
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    joined = torch.empty(
        (count, planes // 4 + beside.shape[1], 2 * height, 2 * width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )
    cells = x.reshape(count, planes // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    joined.narrow(1, 0, planes // 4).view(count, planes // 4, height, 2, width, 2).copy_(cells)
    joined.narrow(1, planes // 4, beside.shape[1]).copy_(beside)
    return joined


class Upsample(nn.Module):
    """Twice as large by a sub-pixel convolution, then resized to the exact size.

    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", 2016, figure 1.

    Args:
        in_channels: Channels of the map from below.
        out_channels: Channels of the result.
        blur: Average neighbours after the shuffle (Sugawara et al., 2018, section 3).
        late_relu: The ReLU is left out before the shuffle and done in the memory of the
            concatenation, so that training has one large map less to keep.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: str,
        act: str | None,
        blur: bool = False,
        late_relu: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.blur = blur
        self.late_relu = late_relu
        act = None if late_relu else act
        self.conv = ConvLayer(in_channels, 4 * out_channels, 1, norm=norm, act=act, init=icnr_)

    def forward(self, x: Tensor, size: tuple[int, int], beside: Tensor | None = None) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, *size)``, concatenated with ``beside``.

        Args:
            beside: ``(N, B, *size)``, or None for nothing.
        """
        x = self.conv(x)
        if beside is not None and self._fits(x, size, beside):
            x = shuffle_beside(x, beside)
        else:
            x = pixel_shuffle(x)
            if self.blur:
                x = F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, stride=1)
            x = resize_nearest(x, size)
            if self.late_relu and in_graph():
                x = F.relu(x)  # a graph plans its memory itself
            x = x if beside is None else torch.cat([x, beside], dim=1)
        if self.late_relu and not in_graph():
            x.narrow(1, 0, self.out_channels).relu_()
        return x

    def _fits(self, x: Tensor, size: tuple[int, int], beside: Tensor) -> bool:
        """Whether shuffle and concatenation can be done in one pass."""
        return not (
            self.blur
            or in_graph()
            or torch.is_grad_enabled()
            or x.dtype != beside.dtype
            or (2 * x.shape[-2], 2 * x.shape[-1]) != size
        )


class SelfAttention(nn.Module):
    """Each cell adds what it attends to in all cells, scaled by a weight that starts at zero.

    Zhang et al., "Self-Attention Generative Adversarial Networks", 2019, section 3 and figure 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 8, 1)
        self.query = SpectralNormConv(_pointwise(channels, hidden))
        self.key = SpectralNormConv(_pointwise(channels, hidden))
        self.value = SpectralNormConv(_pointwise(channels, channels))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> the same shape."""
        cells = x.flatten(2)
        scores = torch.bmm(self.query(cells).transpose(1, 2), self.key(cells))
        attended = torch.bmm(self.value(cells), F.softmax(scores, dim=1))
        return (self.gamma * attended + cells).view(x.shape)


def _pointwise(in_channels: int, out_channels: int) -> Tensor:
    return nn.init.kaiming_normal_(torch.empty(out_channels, in_channels, 1))
