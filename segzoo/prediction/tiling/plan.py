"""Which way of tiling a picture gets, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ... import checks
from ...errors import ArgumentError
from ..pixel_model import PixelModel
from ..views import AS_IT_IS
from .answers import Answers
from .axis import NoCoreError, Span, overwork, plan_axis, plan_overlapping
from .canvas import Canvas
from .margin import Margin, UnboundedError, probe_margin
from .measured import NoMarginError, as_margin, measure_margin, rounds_alike
from .proof import prove
from .rows import Bands, BlendedBands, CutBands

MODES = ("auto", "exact", "measured", "blend")
#: Pixels computed for each pixel of the picture, above which ``auto`` looks for something cheaper.
MOST_OVERWORK = 3.0
#: Multiples of a model's stride that tiles are aligned to, where the stride itself does not hold.
_UNITS = (1, 2, 4)


@dataclass(frozen=True)
class Tiling:
    """How a picture was cut, and what is known of the result.

    Attributes:
        mode: ``whole`` (one forward pass), ``exact``, ``measured`` or ``blend``.
        tile: Side of a tile, margins included.
        margin: What each tile reads beyond its core; None where none are cut or
            tiles are blended.
        unit: Tiles begin at multiples of it.
        overlap: Share of a tile that the next one covers too, where they are blended.
        padded: Height and width with the zeros below and on the right, where the result is that of
            the padded picture; else None.
        overwork: Pixels that are computed for each pixel of the picture.
        reason: What the result is like, and why this way was taken.
    """

    mode: str
    tile: int
    margin: Margin | None
    unit: int
    overlap: float
    padded: tuple[int, int] | None
    overwork: float
    reason: str

    def as_json(self) -> dict[str, Any]:
        """For a journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tiling:
        """The inverse of :meth:`as_json`."""
        margin, padded = values["margin"], values["padded"]
        return cls(
            **{
                **values,
                "margin": Margin(**margin) if margin else None,
                "padded": (padded[0], padded[1]) if padded else None,
            }
        )


@dataclass(frozen=True)
class Wishes:
    """What a person asked for.

    Args:
        mode: One of :data:`MODES`.
        tile: Side of a tile, margins included.
        overlap: For ``blend``.
        tolerance: For ``measured``.
    """

    mode: str
    tile: int
    overlap: float
    tolerance: float

    def __post_init__(self) -> None:
        checks.choice("tiling", self.mode, MODES)
        checks.integer("tile", self.tile, minimum=32, maximum=1 << 16)
        checks.number("overlap", self.overlap, minimum=0, maximum=0.9)
        checks.number("tolerance", self.tolerance, minimum=0, maximum=1)


def plan_tiling(model: PixelModel, canvas: Canvas, wishes: Wishes) -> Tiling:
    """Choose how to cut a picture.

    Raises:
        ArgumentError: What was asked for cannot be had; the message says what can.
    """
    if max(canvas.height, canvas.width) <= wishes.tile:
        return Tiling("whole", wishes.tile, None, 1, 0.0, None, 1.0, "the picture fits into a tile")
    if wishes.mode == "exact":
        return _exact(model, canvas, wishes)
    if wishes.mode == "measured":
        return _measured(model, canvas, wishes)
    if wishes.mode == "blend":
        return _blended(model, canvas, wishes, "tiles are blended: their errors are not known")
    reasons: list[str] = []
    for way in (_exact, _measured):
        try:
            found = way(model, canvas, wishes)
        except ArgumentError as error:
            reasons.append(str(error))
            continue
        if found.overwork <= MOST_OVERWORK:
            return replace(found, reason="; ".join([found.reason, *reasons]))
        reasons.append(f"{found.mode} tiles would compute {found.overwork:.1f} times the pixels")
    why = "; ".join(reasons)
    said = f"tiles are blended: their errors are not known, but {why}"
    return _blended(model, canvas, wishes, said)


def _exact(model: PixelModel, canvas: Canvas, wishes: Wishes) -> Tiling:
    if any(scale != 1 for scale in model.views.scales):
        raise ArgumentError(
            "Exact tiles of a scaled picture would be cut between pixels. Leave scales at 1, or "
            "use tiling='measured' or 'blend'."
        )
    views = model.views.symmetries
    plain = replace(model, views=AS_IT_IS)
    size = (canvas.height, canvas.width)
    failure: UnboundedError | None = None
    for unit in (model.stride * factor for factor in _UNITS):
        try:
            margin = probe_margin(plain, unit).to_unit(unit)
            if len(views) > 1:
                margin = margin.symmetric(square=model.views.turns)
            # Views are cut from the other end, so both ends have to lie on the grid.
            proof = prove(plain, margin, unit, (0, 0) if len(views) > 1 else size)
            break
        except UnboundedError as error:
            failure = failure or error
    else:
        raise UnboundedError(
            f"Exact tiles cannot be had: {failure}. Use tiling='measured', which shows on samples "
            "what a margin leaves out, or tiling='blend'."
        ) from failure
    canvas.padded = size
    if proof.padded or len(views) > 1:
        canvas.pad_to(unit)
    padded = canvas.padded if canvas.padded != size else None
    said = f"; the picture is padded with zeros to {padded[0]}x{padded[1]}" if padded else ""
    try:
        rows, columns = _cut(canvas, wishes.tile, margin, unit)
    except NoCoreError as error:
        before, after = max(margin.top, margin.left), max(margin.bottom, margin.right)
        raise ArgumentError(
            f"{model.name} needs {before} pixels before and {after} after, so nothing of a tile of "
            f"{wishes.tile} is left. Use tile={before + after + 512} or more, or "
            "tiling='measured'."
        ) from error
    work = overwork(rows, columns)
    reason = f"as in one piece: {proof}{said}"
    if work > MOST_OVERWORK:
        reason += f"; {work:.1f} pixels are computed for each: a larger tile is cheaper"
    return Tiling("exact", wishes.tile, margin, unit, 0.0, padded, work, reason)


def _measured(model: PixelModel, canvas: Canvas, wishes: Wishes) -> Tiling:
    canvas.padded = (canvas.height, canvas.width)
    unit = model.stride
    try:
        evidence = measure_margin(
            model, canvas, tile=wishes.tile, unit=unit, tolerance=wishes.tolerance
        )
    except NoMarginError as error:
        raise ArgumentError(
            f"A measured margin cannot be had: {error}. Use a larger tile, a larger tolerance, or "
            "tiling='blend'."
        ) from error
    margin = as_margin(evidence)
    said = str(evidence)
    if not rounds_alike(
        model, canvas, evidence, tile=wishes.tile, unit=unit, tolerance=wishes.tolerance
    ):
        canvas.pad_to(unit)
        said += f"; the picture is padded with zeros to {canvas.padded[0]}x{canvas.padded[1]}"
    padded = canvas.padded if canvas.padded != (canvas.height, canvas.width) else None
    rows, columns = _cut(canvas, wishes.tile, margin, unit)
    work = overwork(rows, columns)
    return Tiling("measured", wishes.tile, margin, unit, 0.0, padded, work, said)


def _blended(model: PixelModel, canvas: Canvas, wishes: Wishes, reason: str) -> Tiling:
    canvas.padded = (canvas.height, canvas.width)
    # Tiles that the stride divides: in others some backbones' maps drift from one end to the other.
    tile = wishes.tile // model.stride * model.stride or wishes.tile
    rows = plan_overlapping(canvas.height, tile, wishes.overlap)
    columns = plan_overlapping(canvas.width, tile, wishes.overlap)
    work = overwork(rows, columns)
    return Tiling("blend", tile, None, 1, wishes.overlap, None, work, reason)


def _cut(
    canvas: Canvas, tile: int, margin: Margin, unit: int
) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    return (
        plan_axis(canvas.padded[0], tile, margin.top, margin.bottom, unit),
        plan_axis(canvas.padded[1], tile, margin.left, margin.right, unit),
    )


def bands_of(tiling: Tiling, canvas: Canvas, model: PixelModel, answers: Answers) -> Bands:
    """The bands that a tiling stands for; the canvas is padded as it says."""
    canvas.padded = tiling.padded or (canvas.height, canvas.width)
    if tiling.mode == "blend":
        rows = plan_overlapping(canvas.height, tiling.tile, tiling.overlap)
        columns = plan_overlapping(canvas.width, tiling.tile, tiling.overlap)
        return BlendedBands(canvas, model, answers, rows, columns)
    margin = tiling.margin or Margin(0, 0, 0, 0)
    rows, columns = _cut(canvas, tiling.tile, margin, tiling.unit)
    return CutBands(canvas, model, answers, rows, columns)
