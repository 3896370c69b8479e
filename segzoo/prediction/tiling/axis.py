"""One axis of a picture cut into spans: what each tile reads, and what of it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ArgumentError


@dataclass(frozen=True)
class Span:
    """A tile along one axis.

    Args:
        start: First pixel that is kept of the tile.
        stop: End of those.
        first: First pixel that is read.
        last: End of those.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def kept(self) -> slice:
        """The core within what is read."""
        return slice(self.start - self.first, self.stop - self.first)


class NoCoreError(ArgumentError):
    """A tile that is all margin."""


def plan_axis(size: int, tile: int, before: int, after: int, unit: int) -> tuple[Span, ...]:
    """Cut an axis so that every core has its margins, unless the picture ends there.

    >>> for span in plan_axis(1000, 512, 96, 64, 32):
    ...     print(span.start, span.stop, span.first, span.last)
    0 448 0 512
    448 800 352 864
    800 1000 704 1000

    Args:
        size: Pixels of the axis.
        tile: The most that a tile reads.
        before: Margin before a core, a multiple of ``unit``.
        after: Margin behind it, a multiple of ``unit``.
        unit: Tiles begin at multiples of it, and end there or with the picture.

    Raises:
        NoCoreError: The margins leave nothing of a tile.
    """
    if size <= tile:
        return (Span(0, size, 0, size),)
    if tile // unit * unit < before + after + unit:
        raise NoCoreError(f"{before} before and {after} after")
    spans: list[Span] = []
    start = 0
    while start < size:
        first = max(0, start - before)
        stop = (first + tile) // unit * unit - after
        if first + tile >= size:
            stop = size
        spans.append(Span(start, stop, first, min(stop + after, size)))
        start = stop
    return tuple(spans)


def plan_overlapping(size: int, tile: int, overlap: float) -> tuple[Span, ...]:
    """Cut an axis into equal tiles that overlap by a share; the last one ends with the picture.

    What is kept of a tile ends where the next one begins: by then nothing is added to it.
    """
    if size <= tile:
        return (Span(0, size, 0, size),)
    step = max(1, round(tile * (1 - overlap)))
    starts = [*range(0, size - tile, step), size - tile]
    ends = [*starts[1:], size]
    return tuple(Span(a, b, a, a + tile) for a, b in zip(starts, ends, strict=True))


def overwork(rows: tuple[Span, ...], columns: tuple[Span, ...]) -> float:
    """Pixels that are computed for each pixel of the picture."""
    shares = [sum(s.last - s.first for s in spans) / spans[-1].stop for spans in (rows, columns)]
    return shares[0] * shares[1]
