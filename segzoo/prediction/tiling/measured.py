"""The smallest margin that is good enough on samples of the picture: evidence, no proof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import ArgumentError
from ..pixel_model import PixelModel
from ..views import AS_IT_IS
from .axis import Span
from .canvas import Canvas
from .margin import Margin

#: Samples that are compared, and places where they are looked for.
_SAMPLES, _PLACES = 4, 24


class NoMarginError(ArgumentError):
    """No margin that fits into a tile is good enough."""


@dataclass(frozen=True)
class Evidence:
    """What was seen on samples.

    Args:
        margin: Pixels on each side.
        difference: Largest difference of logits, relative to the largest logit.
        flipped: Share of pixels with another class.
        samples: Crops that were compared.
        side: Height and width of a crop.
    """

    margin: int
    difference: float
    flipped: float
    samples: int
    side: tuple[int, int]

    def __str__(self) -> str:
        crops = f"{self.samples} crop{'s' if self.samples > 1 else ''}"
        return (
            f"with a margin of {self.margin} pixels the logits of {crops} "
            f"({self.side[0]}x{self.side[1]}) differ by at most {self.difference:.1e} of the "
            f"largest, and {self.flipped:.2%} of the classes; elsewhere it may be more"
        )


def measure_margin(
    model: PixelModel, canvas: Canvas, *, tile: int, unit: int, tolerance: float
) -> Evidence:
    """Find the smallest margin whose error is tolerable in the middle of crops of the picture.

    A crop is as large as a tile. Its middle is computed again from windows that end sooner, the
    smallest first, until all crops agree with theirs.

    Args:
        model: What is measured.
        canvas: The picture.
        tile: Side of a crop; a margin has to leave a core in it.
        unit: Margins are multiples of it.
        tolerance: Largest difference of logits that is tolerable, relative to the largest logit.

    Raises:
        NoMarginError: None is good enough, or no crop has anything known in it.
    """
    crops = list(_crops(canvas, tile, unit))
    if not crops:
        raise NoMarginError("nothing of the picture is known, so there is nothing to measure on")
    model = replace(model, views=AS_IT_IS)
    images = [canvas.window(*crop) for crop in crops]
    references = [(image, model.logits(image)) for image in images]
    side = (images[0].shape[-2], images[0].shape[-1])
    cut = (side[0] < canvas.padded[0], side[1] < canvas.padded[1])
    found = None
    for margin in range(unit, max(side) // 2, unit):
        errors: list[tuple[float, float]] = []
        for image, whole in references:
            error = _error(model, image, whole, margin, unit, cut)
            if error is None:
                break
            errors.append(error)
            if error[0] > tolerance:  # the others cannot make it good
                break
        if not errors:
            break
        difference = max(error[0] for error in errors)
        flipped = sum(error[1] for error in errors) / len(errors)
        found = Evidence(margin, difference, flipped, len(errors), side)
        if difference <= tolerance:
            return found
    reached = f": at {found.margin} pixels it is {found.difference:.1e}" if found else ""
    raise NoMarginError(
        f"no margin within a tile of {tile} keeps the difference of logits below {tolerance:g} of "
        f"the largest{reached}"
    )


@torch.no_grad()
def rounds_alike(
    model: PixelModel, canvas: Canvas, evidence: Evidence, *, tile: int, unit: int, tolerance: float
) -> bool:
    """Whether a ragged end looks the same to a small window as to a large one.

    Many backbones round the sizes of maps that do not divide, and resize by ratios that depend on
    the whole size: tiles of a ragged picture then differ from it everywhere, whatever their margin.
    A crop of the picture is cut to the picture's remainders, and its end is computed again from a
    window that begins later.
    """
    remainders = (canvas.height % unit, canvas.width % unit)
    crop = next(_crops(canvas, tile, unit), None)
    if crop is None or not any(remainders):
        return True
    image = canvas.window(*crop)
    cut = tuple(side < whole for side, whole in zip(evidence.side, canvas.padded, strict=True))
    sides = [
        side - unit + left if is_cut and left else side
        for side, left, is_cut in zip(image.shape[-2:], remainders, cut, strict=True)
    ]
    ragged = image[..., : sides[0], : sides[1]].contiguous()
    # Where the window begins; where what is compared begins. An axis that no tile cuts is whole.
    first = [
        max((side - evidence.margin) // 2 // unit, 1) * unit if is_cut else 0
        for side, is_cut in zip(sides, cut, strict=True)
    ]
    kept = [begin + evidence.margin if begin else 0 for begin in first]
    if kept[0] >= sides[0] or kept[1] >= sides[1]:
        return True  # a tile has no room for such a window either
    model = replace(model, views=AS_IT_IS)
    whole = model.logits(ragged)
    part = model.logits(ragged[..., first[0] :, first[1] :].contiguous())
    expected = whole[..., kept[0] :, kept[1] :]
    found = part[..., kept[0] - first[0] :, kept[1] - first[1] :]
    difference = float((found - expected).abs().max()) / max(float(whole.abs().max()), 1e-30)
    return difference <= tolerance


def as_margin(evidence: Evidence) -> Margin:
    """The same on all sides."""
    return Margin(evidence.margin, evidence.margin, evidence.margin, evidence.margin)


def _crops(canvas: Canvas, tile: int, unit: int) -> Iterator[tuple[Span, Span]]:
    """Crops spread over the picture, the same ones each time, of which most is known."""
    count = 0
    seen: set[tuple[int, int]] = set()
    for i in range(_PLACES):
        # Multiples of the plastic number's inverses: spread evenly however many are taken.
        shares = ((0.5 + i * 0.7548776662) % 1, (0.5 + i * 0.5698402910) % 1)
        spans = []
        for share, size in zip(shares, canvas.padded, strict=True):
            side = min(tile // unit * unit, size)
            first = int(share * (size - side)) // unit * unit
            spans.append(Span(first, first + side, first, first + side))
        place = (spans[0].first, spans[1].first)
        inside = [
            slice(span.first, min(span.last, side))
            for span, side in zip(spans, (canvas.height, canvas.width), strict=True)
        ]
        known = canvas.known(inside[0], inside[1]) if place not in seen else None
        if place in seen or (known is not None and known.mean() < 0.5):
            continue
        seen.add(place)
        yield spans[0], spans[1]
        count += 1
        if count == _SAMPLES:
            return


def _error(
    model: PixelModel, image: Tensor, whole: Tensor, margin: int, unit: int, cut: tuple[bool, bool]
) -> tuple[float, float] | None:
    """Of the middle, computed with a margin; None where that is not smaller than the crop."""
    spans = [
        _middle(side, margin, unit) if is_cut else Span(0, side, 0, side)
        for side, is_cut in zip(image.shape[-2:], cut, strict=True)
    ]
    if any(span is None for span in spans):
        return None
    rows, columns = (span for span in spans if span is not None)
    part = model.logits(
        image[..., rows.first : rows.last, columns.first : columns.last].contiguous()
    )[..., rows.kept, columns.kept]
    expected = whole[..., rows.start : rows.stop, columns.start : columns.stop]
    difference = float((part - expected).abs().max()) / max(float(whole.abs().max()), 1e-30)
    flips = model.mask(part, "logits") != model.mask(expected, "logits")
    return difference, float(flips.float().mean())


def _middle(side: int, margin: int, unit: int) -> Span | None:
    """A core of a quarter of the side, with a margin; None where that is all of the crop."""
    core = max(side // 4 // unit, 1) * unit
    start = (side - core) // 2 // unit * unit
    if start - margin <= 0 or start + core + margin > side:
        return None
    return Span(start, start + core, start - margin, start + core + margin)
