"""The kernels of a backbone's first layers as modules: of an image, and of the maximum after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...errors import ArgumentError
from . import operators
from .modules import MapKernel, packed_bias, raise_for
from .packing import SMALLEST, pack_window

if TYPE_CHECKING:
    from typing_extensions import Self


class ImageConv(MapKernel):
    """``relu(conv(image) + bias)`` for few channels and a window of any size.

    Args:
        weight: ``(channels, in_channels, h, w)``, with fewer than 16 channels in.
        bias: ``(channels,)``, or None for zeros.
        stride: Steps of the window down and across.
        padding: Zeros around the image, above and below, left and right.
        relu: Whether there is a ReLU.

    Raises:
        ArgumentError: The weight has another shape.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int],
        relu: bool = True,
    ) -> None:
        super().__init__()
        if weight.ndim != 4 or not 0 < weight.shape[1] < SMALLEST:
            raise ArgumentError(
                f"Expected a weight (channels, 1 to {SMALLEST - 1}, height, width), got "
                f"{tuple(weight.shape)}."
            )
        self.channels, self.in_channels = weight.shape[:2]
        #: Height and width of the window, its steps, and the padding.
        self.geometry = (*weight.shape[2:], *stride, *padding)
        self.relu = relu
        self.register_buffer("weight", pack_window(weight.detach()), persistent=False)
        self.register_buffer("bias", packed_bias(weight, bias), persistent=False)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, relu: bool = True) -> Self:
        """From a convolution with zero padding, as many zeros on both sides."""
        if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ArgumentError(f"Expected a convolution with zero padding, got {conv}.")
        if tuple(conv.dilation) != (1, 1):
            raise ArgumentError(f"Expected a convolution that is not dilated, got {conv}.")
        (down, across), (above, left) = conv.stride, conv.padding
        stride, padding = (down, across), (above, left)
        return cls(conv.weight, conv.bias, stride=stride, padding=padding, relu=relu)

    @property
    def widths(self) -> tuple[int, ...]:
        """``(in_channels, channels, *geometry)``."""
        return self.in_channels, self.channels, *self.geometry

    def why_not(self, x: Tensor) -> str | None:
        """None where the kernel takes the image, else the reason why it does not."""
        return super().why_not(x) or _too_small(x, self.geometry)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, channels, H', W')``, channels-last.

        Raises:
            InputError: An image that does not belong to the weights.
        """
        raise_for(self.why_not(x))
        out: Tensor = operators.image_conv(
            x, self.weight, self.bias, self.channels, self.geometry, self.relu, self.tile
        )
        return out


class MaxPool(MapKernel):
    """``max_pool2d(x, 3, 2, padding=1)``, without the places of the maxima.

    Args:
        channels: Of the map.
        dtype: Of the map.
        device: Where it is.
    """

    relu = False

    def __init__(
        self,
        channels: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.channels = channels
        # It adds nothing; its place and type are the kernel's.
        self.register_buffer("bias", torch.zeros(0, dtype=dtype, device=device), persistent=False)

    @property
    def widths(self) -> tuple[int, ...]:
        """``(channels,)``."""
        return (self.channels,)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> ``(N, channels, ceil(H / 2), ceil(W / 2))``, channels-last.

        Raises:
            InputError: A map of another number of channels, type or place.
        """
        raise_for(self.why_not(x))
        out: Tensor = operators.max_pool(x, self.tile)
        return out


def _too_small(x: Tensor, geometry: tuple[int, ...]) -> str | None:
    if min(operators.windows(x.shape[2:], geometry)) < 1:
        return f"no window of {geometry[0]}x{geometry[1]} fits into {tuple(x.shape[2:])}"
    return None
