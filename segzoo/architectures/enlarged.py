"""Masks enlarged to the image's size, a few rows at a time.

Enlarged masks of all queries are many times the image, and what has to be done to them is little:
most of the time goes into memory. So a strip of them at a time stays near the processor, in memory
that is used again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def strips(masks: Tensor, factors: tuple[int, int], *, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Masks enlarged by whole factors, as ``bilinear`` with ``align_corners=False`` does.

    Between two cells the same few places are read again and again, one for each unit of the factor
    (its phases). All values of a phase have the same weights, so each phase is one sum of two maps.
    Of the columns those of one phase lie side by side in what is given.

    Args:
        masks: ``(Q, h, w)``, floating point.
        factors: By how much height and width grow.
        rows: How many rows of cells make a strip.

    Yields:
        The first cell's row, and ``(Q, cells * factors[0], factors[1], w)``: rows, phases of
        columns, columns of cells. It is overwritten when the next one is asked for.
    """
    queries, height, width = masks.shape
    up, across = factors
    # With one column more on each side, which repeats the outer one.
    tall = masks.new_empty(queries, rows, up, width + 2)
    steps = masks.new_empty(queries, rows * up, width + 1)
    wide = masks.new_empty(queries, rows * up, across, width)
    for first in range(0, height, rows):
        count = min(rows, height - first)
        if count < rows:
            tall, steps, wide = tall[:, :count], steps[:, : count * up], wide[:, : count * up]
        _between(_with_outer(masks, first, first + count), tall[..., 1:-1], dim=1)
        tall[..., 0], tall[..., -1] = tall[..., 1], tall[..., -2]
        _between(tall.reshape(queries, -1, width + 2), wide.transpose(2, 3), dim=2, steps=steps)
        yield first, wide


def _with_outer(masks: Tensor, first: int, last: int) -> Tensor:
    """Rows and one more on each side; beyond the masks the outer one is repeated."""
    parts = [masks[:, max(first - 1, 0) : last + 1]]
    if first == 0:
        parts.insert(0, masks[:, :1])
    if last == masks.shape[1]:
        parts.append(masks[:, -1:])
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _between(cells: Tensor, out: Tensor, *, dim: int, steps: Tensor | None = None) -> None:
    """What lies between cells, read at the phases.

    Args:
        cells: With one more on each side of ``dim``.
        out: Written to, with the phases behind ``dim``.
        dim: Where phases lie between cells.
        steps: Where differences of neighbours are kept, if there is such a place.
    """
    count, phases = out.shape[dim], out.shape[dim + 1]
    inner = cells.narrow(dim, 1, count)
    steps = torch.sub(cells.narrow(dim, 1, count + 1), cells.narrow(dim, 0, count + 1), out=steps)
    for phase in range(phases):
        place = (phase + 0.5) / phases - 0.5  # from the middle of the cell, in cells
        step = steps.narrow(dim, 0 if place < 0 else 1, count)
        torch.add(inner, step, alpha=place, out=out.select(dim + 1, phase))
