"""Matrices that filter with few multiplications: the construction of Toom and Cook, transposed.

Polynomials are multiplied by their values at points, and at infinity, where only the highest power
counts; filtering is the transpose of that. Winograd, "Arithmetic Complexity of Computations", 1980;
as in Blahut, "Fast Algorithms for Signal Processing", 2010, chapter 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor


def transforms(points: Sequence[Fraction], taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices that filter: ``back @ ((kernel @ g) * (tile @ d))`` slides ``g`` along ``d``.

    Args:
        points: All different; one fewer than the cells of ``d``.
        taps: Number of taps of ``g``.

    Returns:
        ``back`` (outputs, cells), ``kernel`` (cells, taps) and ``tile`` (cells, cells) in float64.
    """
    outputs = len(points) + 2 - taps
    kernel, tile = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = math.prod(point - other for other in others)
        kernel.append([power / scale for power in _powers(point, taps)])
        tile.append([*_with_roots(others), Fraction(0)])
    kernel.append(_at_infinity(taps))
    tile.append(_with_roots(points))
    back = [_powers(point, outputs) for point in points] + [_at_infinity(outputs)]
    return _matrix(back).T.contiguous(), _matrix(kernel), _matrix(tile)


def _powers(point: Fraction, count: int) -> list[Fraction]:
    return [point**i for i in range(count)]


def _at_infinity(count: int) -> list[Fraction]:
    return [Fraction(i == count - 1) for i in range(count)]


def _with_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the product of all ``(x - root)``, the constant one first."""
    found = [Fraction(1)]
    for root in roots:
        found = [
            a - root * b for a, b in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)
        ]
    return found


def _matrix(rows: Sequence[Sequence[Fraction]]) -> Tensor:
    return torch.tensor([[float(item) for item in row] for row in rows], dtype=torch.float64)
