"""The kernels as modules that hold their weights in the layout the kernels read.

For inference: there are no gradients, and the weights are buffers that are not saved.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...errors import ArgumentError, InputError
from . import operators
from .packing import pack_bias, pack_head, pack_head_bias, pack_phases, pack_taps, padded

if TYPE_CHECKING:
    from typing_extensions import Self

#: Offsets inside one image are 32-bit integers.
MAX_ELEMENTS = 2**31
#: A program of the kernel with a head computes all channels of both convolutions at once.
MAX_FUSED_CHANNELS = 32


class Kernel(nn.Module):
    """What the modules share: packed weights, and maps that belong to them."""

    weight: Tensor
    bias: Tensor
    #: Which of the tiles of :mod:`.launching` it is computed in; the results are equal.
    tile: int = 0
    #: Whether there is a ReLU after the first convolution.
    relu: bool = True

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """Channels of all that goes in and out; these and the type are what is compiled for."""

    def _refused(self, x: Tensor) -> str | None:
        """Why a map cannot be taken, in what all kernels share."""
        if x.ndim != 4 or 0 in x.shape:
            return f"expected a map (N, C, h, w) that is not empty, got {tuple(x.shape)}"
        if x.shape[1] != self.widths[0]:
            return f"expected {self.widths[0]} channels, got {x.shape[1]}"
        if x.dtype != self.bias.dtype or x.device != self.bias.device:
            return (
                f"the kernel is {self.bias.dtype} on {self.bias.device}, the map {x.dtype} on "
                f"{x.device}"
            )
        return None


class DoubleConcatConv(Kernel):
    """``relu(conv3x3(cat(double(x), skip)) + bias)``, without making the doubled or the joined map.

    Args:
        weight: ``(channels, in_channels + skip_channels, 3, 3)``.
        bias: ``(channels,)``, or None for zeros.
        in_channels: Channels of the map that is doubled, by nearest neighbour.
        skip_channels: Channels of the skip connection; 0 where there is none.
        relu: Whether there is a ReLU.

    Raises:
        ArgumentError: The weight has another shape.
    """

    skip_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        in_channels: int,
        skip_channels: int,
        *,
        relu: bool = True,
    ) -> None:
        super().__init__()
        if in_channels < 1 or skip_channels < 0:
            raise ArgumentError(
                f"in_channels must be at least 1 and skip_channels at least 0, got {in_channels} "
                f"and {skip_channels}."
            )
        _check_weight(weight, bias, in_channels + skip_channels)
        self.in_channels = in_channels
        self.skip_channels = skip_channels
        self.channels = len(weight)
        self.relu = relu
        small, full = weight.detach().tensor_split([in_channels], dim=1)
        self.register_buffer("weight", pack_phases(small), persistent=False)
        self.register_buffer(
            "skip_weight", pack_taps(full) if skip_channels else None, persistent=False
        )
        self.register_buffer("bias", packed_bias(weight, bias), persistent=False)

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, in_channels: int, skip_channels: int, *, relu: bool = True
    ) -> Self:
        """From a 3x3 convolution with stride 1 and padding 1 on the joined map."""
        _check_conv(conv)
        return cls(conv.weight, conv.bias, in_channels, skip_channels, relu=relu)

    @property
    def widths(self) -> tuple[int, ...]:
        """``(in_channels, skip_channels, channels)``."""
        return self.in_channels, self.skip_channels, self.channels

    def why_not(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> str | None:
        """None where the kernel gives what the block gives, else the reason why it does not.

        Args:
            x: ``(N, in_channels, h, w)``.
            skip: ``(N, skip_channels, *size)``, or None.
            size: Size of the result. Resizing to anything but ``(2 h, 2 w)`` is not doubling: to
                2 h - 1 rows, the nearest neighbours of later rows lie elsewhere.
        """
        reason = self._refused(x)
        if reason is not None:
            return reason
        doubled = (2 * x.shape[2], 2 * x.shape[3])
        if tuple(size) != doubled:
            return f"the target {tuple(size)} is not the double {doubled} of the map"
        expected = (x.shape[0], self.skip_channels, *doubled)
        if (skip is None) != (self.skip_channels == 0):
            got = "no skip" if skip is None else f"a skip of shape {tuple(skip.shape)}"
            return f"expected a skip with {self.skip_channels} channels, got {got}"
        if skip is not None and tuple(skip.shape) != expected:
            return f"expected a skip of shape {expected}, got {tuple(skip.shape)}"
        if skip is not None and (skip.dtype != x.dtype or skip.device != x.device):
            return f"the map is {x.dtype} on {x.device}, the skip {skip.dtype} on {skip.device}"
        return _too_large(doubled, self.widths)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Maps of two sizes -> ``(N, channels, 2 h, 2 w)``, channels-last.

        Args:
            x: ``(N, in_channels, h, w)``, in any memory format.
            skip: ``(N, skip_channels, 2 h, 2 w)``, or None where there are no such channels.

        Raises:
            InputError: Maps that do not belong together.
        """
        size = (x.shape[-2], x.shape[-1])
        raise_for(self.why_not(x, skip, (2 * size[0], 2 * size[1])))
        out: Tensor = operators.double_concat_conv(
            x,
            skip,
            self.weight,
            self.skip_weight,
            self.bias,
            self.channels,
            self.relu,
            self.tile,
        )
        return out


class MapKernel(Kernel):
    """What the kernels on one map share: it may have any size."""

    def why_not(self, x: Tensor) -> str | None:
        """None where the kernel takes the map, else the reason why it does not."""
        return self._refused(x) or _too_large(x.shape[2:], self.widths)


class ConvRelu(MapKernel):
    """``relu(conv3x3(x) + bias)`` at any size.

    Args:
        weight: ``(channels, in_channels, 3, 3)``.
        bias: ``(channels,)``, or None for zeros.
        relu: Whether there is a ReLU.

    Raises:
        ArgumentError: The weight has another shape.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, relu: bool = True) -> None:
        super().__init__()
        _check_weight(weight, bias, weight.shape[1])
        self.channels, self.in_channels = weight.shape[:2]
        self.relu = relu
        self.register_buffer("weight", pack_taps(weight.detach()), persistent=False)
        self.register_buffer("bias", packed_bias(weight, bias), persistent=False)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, relu: bool = True) -> Self:
        """From a 3x3 convolution with stride 1 and padding 1."""
        _check_conv(conv)
        return cls(conv.weight, conv.bias, relu=relu)

    @property
    def widths(self) -> tuple[int, ...]:
        """``(in_channels, channels)``."""
        return self.in_channels, self.channels

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, channels, H, W)``, channels-last.

        Raises:
            InputError: A map that does not belong to the weights.
        """
        raise_for(self.why_not(x))
        out: Tensor = operators.conv3x3(
            x, self.weight, self.bias, self.channels, self.relu, self.tile
        )
        return out


class ConvReluHead(MapKernel):
    """``conv3x3(relu(conv3x3(x) + bias)) + head_bias``: a block's last convolution and the head.

    The map between them is never a tensor: tiles of it stay in the L2 cache. Both convolutions
    are limited to 32 outputs; with more classes the logits are most of what is written, and there
    is little to gain.

    Args:
        weight: ``(channels, in_channels, 3, 3)``.
        bias: ``(channels,)``, or None for zeros.
        head_weight: ``(classes, channels, 3, 3)``.
        head_bias: ``(classes,)``, or None for zeros.

    Raises:
        ArgumentError: The weights have other shapes, or more than 32 outputs.
    """

    head_weight: Tensor
    head_bias: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None, head_weight: Tensor, head_bias: Tensor | None
    ) -> None:
        super().__init__()
        _check_weight(weight, bias, weight.shape[1])
        _check_weight(head_weight, head_bias, len(weight))
        if max(len(weight), len(head_weight)) > MAX_FUSED_CHANNELS:
            raise ArgumentError(
                f"Both convolutions may have {MAX_FUSED_CHANNELS} outputs at most, got "
                f"{len(weight)} channels and {len(head_weight)} classes: use ConvRelu."
            )
        self.channels, self.in_channels = weight.shape[:2]
        self.classes = len(head_weight)
        self.register_buffer("weight", pack_taps(weight.detach()), persistent=False)
        self.register_buffer("bias", packed_bias(weight, bias), persistent=False)
        self.register_buffer("head_weight", pack_head(head_weight.detach()), persistent=False)
        zeros = head_weight.new_zeros(self.classes)
        packed = pack_head_bias(zeros if head_bias is None else head_bias.detach())
        self.register_buffer("head_bias", packed, persistent=False)

    @property
    def widths(self) -> tuple[int, ...]:
        """``(in_channels, channels, classes)``."""
        return self.in_channels, self.channels, self.classes

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``, channels-last.

        Raises:
            InputError: A map that does not belong to the weights.
        """
        return self._run(x, answer=False)

    def classes_of(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> the class of each pixel ``(N, H, W)``, uint8.

        That of the largest logit; with one class whether the logit is above zero. 255 where a logit
        is NaN. The logits are not written to memory.

        Raises:
            InputError: A map that does not belong to the weights.
        """
        return self._run(x, answer=True)

    def _run(self, x: Tensor, *, answer: bool) -> Tensor:
        raise_for(self.why_not(x))
        out: Tensor = operators.conv3x3_head(
            x,
            self.weight,
            self.bias,
            self.head_weight,
            self.head_bias,
            self.classes,
            answer,
            self.tile,
        )
        return out


def raise_for(reason: str | None) -> None:
    """Raise where a kernel's ``why_not`` gives a reason."""
    if reason is not None:
        raise InputError(f"The kernel cannot be used: {reason}.")


def _too_large(size: tuple[int, ...], widths: tuple[int, ...]) -> str | None:
    if size[0] * size[1] * padded(max(widths)) >= MAX_ELEMENTS:
        return f"one image of {size[0]}x{size[1]} with {max(widths)} channels has over 2^31 values"
    return None


def _check_weight(weight: Tensor, bias: Tensor | None, channels: int) -> None:
    if weight.ndim != 4 or tuple(weight.shape[1:]) != (channels, 3, 3):
        raise ArgumentError(
            f"Expected a weight (channels, {channels}, 3, 3), got {tuple(weight.shape)}."
        )
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise ArgumentError(f"Expected a bias ({len(weight)},), got {tuple(bias.shape)}.")


def _check_conv(conv: nn.Conv2d) -> None:
    expected = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    found = {name: getattr(conv, name) for name in expected}
    if found != expected or conv.groups != 1 or conv.padding_mode != "zeros":
        raise ArgumentError(
            f"Expected a 3x3 convolution with stride 1 and zero padding 1, got {conv}."
        )


def packed_bias(weight: Tensor, bias: Tensor | None) -> Tensor:
    """A bias as the kernels read it, zeros where there is none."""
    return pack_bias(weight.new_zeros(len(weight)) if bias is None else bias.detach())
