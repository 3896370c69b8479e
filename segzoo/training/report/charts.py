"""Small charts as SVG that take their colours from the page, so that they suit a dark one too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .text import escape

#: Size of a chart in its own units, and the margins in which numbers stand.
_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 30


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: What it shows.
        x: Places along the horizontal axis.
        y: Values; None where there is none.
        kind: A class of the style sheet, which has its colour.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    kind: str = "first"


@dataclass(frozen=True)
class _Axes:
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Values -> the place in the drawing."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    y: tuple[float, float] | None = None,
    mark: tuple[float, float] | None = None,
    x_name: str = "epoch",
) -> str:
    """Lines over a common axis.

    Args:
        title: What it shows, for those who cannot see it too.
        lines: At least one.
        y: The range of values; None for that of the lines, from 0 where all are above it.
        mark: A point to put a ring around.
        x_name: What is counted along the horizontal axis.
    """
    known = [value for line in lines for value in line.y if value is not None]
    places = [value for line in lines for value in line.x]
    if not known:
        return ""
    if y is None:
        y = (min(0.0, *known), max(known) * 1.05 or 1.0)
    axes = _Axes((min(places), max(places)), y)
    parts = [_grid(axes, whole=x_name == "epoch")]
    for line in lines:
        points = [
            axes.at(x, value) for x, value in zip(line.x, line.y, strict=True) if value is not None
        ]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline class="line {line.kind}" points="{path}"/>')
        if len(points) < 15:
            parts += [
                f'<circle class="dot {line.kind}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>'
                for px, py in points
            ]
    if mark is not None:
        px, py = axes.at(*mark)
        parts.append(f'<circle class="ring" cx="{px:.1f}" cy="{py:.1f}" r="7"/>')
    return _figure(title, parts, lines, x_name)


def reliability_chart(reliability: Sequence[tuple[int, int, float]]) -> str:
    """How often pixels are right, by how sure the model is; a perfect one is on the diagonal."""
    axes = _Axes((0.0, 1.0), (0.0, 1.0))
    most = max((pixels for pixels, _, _ in reliability), default=0) or 1
    parts = [_grid(axes, whole=False)]
    start, end = axes.at(0, 0), axes.at(1, 1)
    parts.append(
        f'<line class="even" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" '
        f'y2="{end[1]:.1f}"/>'
    )
    for pixels, right, confidence in reliability:
        if pixels:
            px, py = axes.at(confidence, right / pixels)
            radius = 2.5 + 5 * math.sqrt(pixels / most)
            parts.append(
                f'<circle class="dot first" cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}">'
                f"<title>{pixels:,} pixels, {right / pixels:.1%} right at {confidence:.1%} "
                "confidence</title></circle>"
            )
    title = "Share of pixels that are right, by confidence"
    return _figure(title, parts, (), "confidence of the largest class")


def _figure(title: str, parts: Sequence[str], lines: Sequence[Line], x_name: str) -> str:
    several = lines if len(lines) > 1 else ()
    legend = "".join(
        f'<span><i class="{line.kind}"></i>{escape(line.name)}</span>' for line in several
    )
    axis = _axis_text((_WIDTH + _LEFT) / 2, _HEIGHT - 3, escape(x_name), "middle")
    return (
        f'<figure><figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}{axis}</svg></figure>"
    )


def _grid(axes: _Axes, *, whole: bool) -> str:
    parts = []
    for value in ticks(*axes.y):
        (left, py), (right, _) = axes.at(axes.x[0], value), axes.at(axes.x[1], value)
        if axes.x[0] == axes.x[1]:
            right = _WIDTH - _RIGHT
        parts.append(
            f'<line class="grid" x1="{left:.1f}" y1="{py:.1f}" x2="{right:.1f}" y2="{py:.1f}"/>'
            + _axis_text(_LEFT - 6, py + 4, f"{value:g}", "end")
        )
    for value in ticks(*axes.x, whole=whole):
        px, py = axes.at(value, axes.y[0])
        parts.append(_axis_text(px, py + 15, f"{value:g}", "middle"))
    return "".join(parts)


def _axis_text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers in a range, four to six of them; whole ones where they are counted.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(1, 30, whole=True)
    [10.0, 20.0, 30.0]
    """
    span = high - low
    if span <= 0:
        return [low]
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]
