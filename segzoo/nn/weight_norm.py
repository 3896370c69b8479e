"""Convolutions whose kernel is computed from other parameters at each call.

Plain modules without hooks or parametrisations, so that they can be pickled, copied, replicated,
compiled and exported like any other.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._compat import weight_norm


class ReparametrizedConv(nn.Module):
    """A convolution of stride 1 that keeps the size, in one dimension or two."""

    bias: nn.Parameter | None

    def __init__(self, bias: Tensor | None) -> None:
        super().__init__()
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach()))

    @abstractmethod
    def kernel(self) -> Tensor:
        """The kernel ``(out_channels, in_channels, side)`` or ``(..., side, side)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, ...)`` -> ``(N, out_channels, ...)``."""
        kernel = self.kernel()
        convolve = F.conv1d if kernel.ndim == 3 else F.conv2d
        return convolve(x, kernel, self.bias, padding=kernel.shape[-1] // 2)


class WeightNormConv(ReparametrizedConv):
    """Length and direction of each output's kernel are parameters of their own.

    Salimans and Kingma, "Weight Normalization", 2016, equation 2.

    Args:
        weight: The kernel to start from.
        bias: One value for each output, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        self.magnitude = nn.Parameter(torch.norm_except_dim(weight.detach(), 2, 0))
        self.direction = nn.Parameter(weight.detach())

    def kernel(self) -> Tensor:
        """See the base class."""
        return weight_norm(self.direction, self.magnitude)


class SpectralNormConv(ReparametrizedConv):
    """The kernel, as a matrix, is divided by its largest singular value.

    Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018, algorithm 1:
    one step of power iteration at each call in training mode.

    Args:
        weight: The kernel to start from.
        bias: One value for each output, or None.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        self.weight = nn.Parameter(weight.detach())
        matrix = weight.detach().flatten(1)
        self.register_buffer("left", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("right", F.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(15):  # so that a model that was never trained is normalised as well
            self._iterate()

    @torch.no_grad()
    def _iterate(self) -> None:
        matrix = self.weight.flatten(1)
        self.right.copy_(F.normalize(torch.mv(matrix.t(), self.left), dim=0))
        self.left.copy_(F.normalize(torch.mv(matrix, self.right), dim=0))

    def kernel(self) -> Tensor:
        """See the base class."""
        if self.training:
            self._iterate()
        # Copies, so that a second forward does not change what the first one's backward needs.
        left, right = self.left.clone(), self.right.clone()
        return self.weight / torch.dot(left, torch.mv(self.weight.flatten(1), right))
