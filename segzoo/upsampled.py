"""A 3x3 convolution of a map that is doubled first, without ever making the doubled map.

Nearest-neighbour doubling repeats each cell in a 2x2 square, so a 3x3 window on the doubled map
sees only two different rows and two different columns of the small one: the convolution equals a
transposed convolution (kernel 4, stride 2, padding 1) on the small map, with 4 multiply-adds for
each output where the plain way has 9. The resize convolution itself is Odena et al.,
"Deconvolution and Checkerboard Artifacts", 2016; writing it on the small map is the sub-pixel view
of Shi et al., 2016. A convolution is linear in its channels, so a concatenation needs no copy:

    conv(cat(double(x), skip)) = conv_doubled(x, w[:, :a]) + conv(skip, w[:, a:])
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows: the four taps of the transposed kernel along one axis. Columns: the taps of the 3x3 kernel
#: that meet the same small cell there.
_SUMS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def doubled_kernel(weight: Tensor) -> Tensor:
    """From a kernel ``(O, C, 3, 3)`` of ``conv2d`` the ``(C, O, 4, 4)`` of ``conv_transpose2d``.

    Differentiable; the sums are exact where the weights' precision holds them.
    """
    sums = torch.tensor(_SUMS, dtype=weight.dtype, device=weight.device)
    return torch.einsum("ai,bj,ocij->coab", sums, sums, weight)


def conv_doubled(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``conv2d(interpolate(x, scale_factor=2), weight, bias, padding=1)``, computed on ``x``.

    Args:
        x: ``(N, C, h, w)``.
        weight: ``(O, C, 3, 3)``.
        bias: ``(O,)`` or None.

    Returns:
        ``(N, O, 2 h, 2 w)``.
    """
    return F.conv_transpose2d(x, doubled_kernel(weight), bias, stride=2, padding=1)
