"""A 3x3 convolution with a few outputs, on a CPU: a head with one to four classes.

A CPU computes sixteen channels at a time, and for three outputs most of that is lost. The outputs
of the four cells of a 2x2 square are computed as channels of one cell instead, by a 4x4
convolution with stride 2: the sub-pixel convolution of Shi et al., "Real-Time Single Image and
Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", 2016, section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


class FewOutputs:
    """``act(conv2d(x, weight, bias, padding=1) [+ other])`` for maps whose sides are even.

    Args:
        weight: ``(O, C, 3, 3)``.
        bias: ``(O,)`` or None.
        act: Changes a tensor in place, and gives it.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        act: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self._act = act
        outputs, channels = weight.shape[:2]
        # The window of a cell lies in the 4x4 window of its square, a cell further or not.
        squares = weight.new_zeros(outputs, 2, 2, channels, 4, 4)
        for row, column in itertools.product(range(2), repeat=2):
            squares[:, row, column, :, row : row + 3, column : column + 3] = weight
        squares = squares.flatten(0, 2)
        self._weight = squares.contiguous(memory_format=torch.channels_last)
        self._bias = None if bias is None else bias.repeat_interleave(4)

    def takes(self, x: Tensor) -> bool:
        """Whether it computes that map."""
        return x.shape[-2] % 2 == 0 and x.shape[-1] % 2 == 0

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """``(N, C, H, W)`` and, to be added, a map of the output's shape -> ``(N, O, H, W)``."""
        squares = F.conv2d(x, self._weight, self._bias, stride=2, padding=1)
        # As pixel_shuffle, but into planes, as masks are wanted.
        size = squares.shape[-2:]
        out = squares.view(len(x), -1, 2, 2, *size).permute(0, 1, 4, 2, 5, 3)
        out = out.reshape(len(x), -1, 2 * size[0], 2 * size[1])
        return self._act(out if other is None else out.add_(other))
