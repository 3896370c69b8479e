"""Bands of rows, each of which is computed by itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ...data.readers.face import Values
from ..pixel_model import PixelModel
from .answers import Answers
from .axis import Span
from .canvas import Canvas

#: Called after each tile, with whether the model had to run.
Step = Callable[[bool], None]


class Bands(ABC):
    """The picture's rows in bands, from top to bottom.

    Args:
        canvas: The picture.
        model: What computes.
        answers: What is kept.
        rows: The cut from top to bottom.
        columns: The cut from left to right.
    """

    def __init__(
        self,
        canvas: Canvas,
        model: PixelModel,
        answers: Answers,
        rows: tuple[Span, ...],
        columns: tuple[Span, ...],
    ) -> None:
        self._canvas, self._model, self._answers = canvas, model, answers
        self.rows, self.columns = rows, columns

    @abstractmethod
    def compute(self, index: int, step: Step) -> Values:
        """The values of a band: ``(rows, width)`` of classes, else ``(channels, rows, width)``."""


class CutBands(Bands):
    """Tiles of which a core is kept: bands do not depend on each other."""

    def compute(self, index: int, step: Step) -> Values:
        """The values of a band."""
        canvas, row = self._canvas, self.rows[index]
        bottom = min(row.stop, canvas.height)
        band = self._answers.empty(bottom - row.start, canvas.width)
        for column in self.columns:
            right = min(column.stop, canvas.width)
            kept = slice(row.start, bottom), slice(column.start, right)
            known = canvas.known(*kept)
            runs = known is None or bool(known.any())
            if runs:
                answer = self._model.answer(canvas.window(row, column), self._answers.kind)
                core = answer[
                    ...,
                    row.start - row.first : bottom - row.first,
                    column.start - column.first : right - column.first,
                ]
                band[..., column.start : right] = self._answers.of(self._model, core, known)
            step(runs)
        return band


class BlendedBands(Bands):
    """Overlapping tiles, weighted by a Gaussian and averaged.

    Only sums of one row of tiles are kept. A band that does not follow the one before is begun
    from the first tile that reaches into it, so it is the same whatever was computed before.

    Arguments are those of :class:`Bands`; rows and columns as :func:`.axis.plan_overlapping` gives
    them.
    """

    def __init__(
        self,
        canvas: Canvas,
        model: PixelModel,
        answers: Answers,
        rows: tuple[Span, ...],
        columns: tuple[Span, ...],
    ) -> None:
        super().__init__(canvas, model, answers, rows, columns)
        self._weights = tuple(
            _gaussian(spans[0].last).to(model.device) for spans in (rows, columns)
        )
        self._totals = tuple(
            _total(spans, weight)
            for spans, weight in zip((rows, columns), self._weights, strict=True)
        )
        self._sums: Tensor | None = None
        self._next = 0  # the first row of tiles that is not in the sums
        self._top = 0  # the row of the picture that the sums begin with

    def compute(self, index: int, step: Step) -> Values:
        """The values of a band."""
        row, canvas = self.rows[index], self._canvas
        if self._sums is None or self._next != index or self._top > row.start:
            reaching = next(i for i, span in enumerate(self.rows) if span.last > row.start)
            self._sums, self._next, self._top = None, reaching, self.rows[reaching].first
        while self._next <= index:
            self._add(self.rows[self._next], step)
            self._next += 1
        sums = self._sums
        assert sums is not None  # a row of tiles was added
        offset = row.start - self._top
        height = row.stop - row.start
        weight = self._totals[0][row.start : row.stop, None] * self._totals[1]
        answer = sums[None, :, offset : offset + height] / weight
        known = canvas.known(slice(row.start, row.stop), slice(0, canvas.width))
        values = self._answers.of(self._model, answer, known)
        self._sums = sums[:, offset + height :].clone()
        self._top = row.stop
        return values

    def _add(self, row: Span, step: Step) -> None:
        """Add a row of tiles to the sums."""
        canvas = self._canvas
        held = 0 if self._sums is None else self._sums.shape[1]
        grown = torch.zeros(
            self._model.channels,
            row.last - self._top,
            canvas.width,
            dtype=self._model.dtype if self._model.dtype is torch.float64 else torch.float32,
            device=self._model.device,
        )
        if self._sums is not None:
            grown[:, :held] = self._sums
        weights = self._weights[0][:, None] * self._weights[1]
        for column in self.columns:
            read = slice(row.first, row.last), slice(column.first, column.last)
            known = canvas.known(*read)
            runs = known is None or bool(known.any())
            if runs:
                answer = self._model.answer(canvas.window(row, column), self._answers.kind)
                part = grown[:, row.first - self._top :, read[1]]
                part += answer[0].to(grown.dtype) * weights
            step(runs)
        self._sums = grown


def _gaussian(length: int) -> Tensor:
    """Weights along an axis: sigma is an eighth of it, as in MONAI and nnU-Net."""
    place = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    return torch.exp(-0.5 * (place / (length / 8)) ** 2).float()


def _total(spans: tuple[Span, ...], weight: Tensor) -> Tensor:
    """The sum of weights at each pixel of an axis."""
    total = torch.zeros(spans[-1].last, dtype=weight.dtype, device=weight.device)
    for span in spans:
        total[span.first : span.last] += weight
    return total


def share_of(count: int, rows: tuple[int, int] | None) -> range:
    """The bands of one part of several: ``(3, 8)`` is the third of eight.

    >>> [list(share_of(7, (part, 3))) for part in (1, 2, 3)]
    [[0, 1], [2, 3], [4, 5, 6]]
    """
    part, parts = rows or (1, 1)
    return range(math.floor((part - 1) * count / parts), math.floor(part * count / parts))
