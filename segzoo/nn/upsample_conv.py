"""A 3x3 convolution of a map that is doubled first, without ever making the doubled map.

Nearest-neighbour doubling repeats each cell in a 2x2 square, so a 3x3 window on the doubled map
sees only two different rows and two different columns of the small one: the convolution equals a
transposed convolution (kernel 4, stride 2, padding 1) on the small map, with 4 multiply-adds for
each output where the plain form has 9. The resize convolution itself is Odena et al.,
"Deconvolution and Checkerboard Artifacts", 2016; writing it on the small map is the sub-pixel view
of Shi et al., 2016. A convolution is linear in its channels, so a concatenation needs no copy:

    conv(cat(double(x), skip)) = conv_doubled(x, w[:, :a]) + conv(skip, w[:, a:])
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._compat import may_have_hooks
from .graph_capture import serves_other_sizes

#: Interpolations that repeat each cell in a 2x2 square where a map becomes twice as large.
DOUBLING = ("nearest", "nearest-exact", "area")


def doubled_kernel(weight: Tensor) -> Tensor:
    """The kernel ``(C, O, 4, 4)`` of ``conv_transpose2d`` from ``conv2d``'s ``(O, C, 3, 3)``.

    Differentiable; the sums are exact where the weights' precision holds them.
    """
    return _sums(_sums(weight, 2), 3).transpose(0, 1)


def _sums(weight: Tensor, axis: int) -> Tensor:
    """Three taps to four: each is the sum of those that meet the same small cell there.

    By additions: a product with a matrix of ones would be rounded to what autocast or
    ``torch.set_float32_matmul_precision`` say.
    """
    before, middle, after = weight.unbind(axis)
    return torch.stack([after, middle + after, before + middle, before], axis)


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


def conv_joined(x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of ``cat(double(x), skip)``, of which neither is made.

    Args:
        x: ``(N, C, h, w)``.
        skip: ``(N, S, 2 h, 2 w)``; None where there is none.
        weight: ``(O, C + S, 3, 3)``.
        bias: ``(O,)`` or None.

    Returns:
        ``(N, O, 2 h, 2 w)``.
    """
    if skip is None:
        return conv_doubled(x, weight, bias)
    below = x.shape[1]
    out = conv_doubled(x, weight[:, :below], bias)
    return out.add_(F.conv2d(skip, weight[:, below:], padding=1))


def doubles(x: Tensor, size: tuple[int, int], interpolation: str) -> bool:
    """Whether resizing a map to ``size`` doubles it by repeating cells, whatever its size is."""
    if interpolation not in DOUBLING or serves_other_sizes(x):
        return False
    return size == (2 * x.shape[-2], 2 * x.shape[-1])


def runs_as_written(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is what it was built as, with nothing hung on it.

    What others put in its place or add to it (adapters, parametrizations, hooks, quantization)
    would be passed over if its weights were used without calling it.
    """
    return type(module) is kind and not may_have_hooks(module)
