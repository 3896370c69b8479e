"""Predict a picture of any size, in tiles."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ... import checks
from ...data.pixel_values import ValueRange, check_band_numbers, check_range
from ...data.raster import is_georeferenced, open_raster
from ...data.readers.face import Raster, Values
from ...data.readers.in_memory import ArrayRaster, WindowSource, from_array
from ...data.readers.with_rasterio import DatasetRaster
from ...errors import ArgumentError, InputError, MissingPackageError, StorageError
from ...files.local import path_of
from ...packages import has_package
from ..pixel_model import PixelModel, Predictor, fingerprint, pixel_model
from ..views import Views
from .answers import KINDS, answers_for
from .canvas import Canvas
from .journal import Journal
from .plan import Tiling, Wishes, bands_of, plan_tiling
from .rows import Bands, share_of
from .sinks import Result, Sink, check_target, write_file

#: Rows of an array by which another run knows it again.
_ROWS = 16
#: What a picture may come as.
Source = Tensor | NDArray[Any] | str | os.PathLike[str] | WindowSource
#: Where a result may go.
Target = str | os.PathLike[str] | NDArray[Any] | Sink


@dataclass(frozen=True)
class TiledPrediction:
    """What became of a picture.

    Attributes:
        values: Where no sink was given: classes ``(H, W)``, else ``(channels, H, W)``.
        path: The file that was written, or None: there was none, or parts of it are missing still.
        tiling: How the picture was cut, and what is known of the result.
        tiles: Tiles of this call.
        skipped: Of these, tiles in which nothing is known (nodata): the model did not run.
        shares: Of classes: the share of the known pixels of each index, where all was seen. With
            ``min_confidence`` of all pixels, and that of 255 is what is unsure or not known.
    """

    values: Values | None
    path: Path | None
    tiling: Tiling
    tiles: int
    skipped: int
    shares: dict[int, float]


def predict_tiled(
    model: Predictor,
    source: Source,
    sink: Target | None = None,
    *,
    tiling: str = "auto",
    tile: int = 1024,
    overlap: float = 0.25,
    tolerance: float = 1e-3,
    rows: tuple[int, int] | None = None,
    write: str = "classes",
    tta: str = "none",
    scales: Sequence[float] = (1.0,),
    bands: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
    nodata: float | None = None,
    min_confidence: float | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> TiledPrediction:
    """Segment a picture of any size with the memory of a few tiles.

    >>> model = segzoo.Unet("resnet18", classes=3, depth=2).eval()
    >>> picture = torch.randint(0, 256, (3, 500, 700), dtype=torch.uint8)
    >>> result = segzoo.predict_tiled(model, picture, tiling="exact", tile=256)
    >>> result.values.shape, result.tiling.mode
    ((500, 700), 'exact')

    - ``exact``: the logits of one forward pass over the whole picture, up to the rounding of sums.
      How far the model looks is found on the model itself, and checked. A model that looks at
      everything (attention, squeeze-and-excitation) is refused.
    - ``measured``: the smallest margin whose error is tolerable on crops of this picture.
    - ``blend``: overlapping tiles, weighted by a Gaussian. Nothing is known of the error.
    - ``auto``: exact where that computes at most three times the pixels, else measured where that
      does, else blended; the result says which, and why.

    Args:
        model: A model, an optimised one, or anything like them; it stays in its mode.
        source: A tensor or array ``(C, H, W)`` (uint8, uint16, or floating point in 0..1), a
            picture file, an open dataset of rasterio, or any object with ``shape`` and
            ``read(rows, columns)``.
        sink: A file (.tif, .png, .npy), an array to fill, any object with ``write(rows, values)``
            and ``close()``, or None for an array in the result. A georeferenced source gives a
            georeferenced .tif, with its class names, a palette and overviews.
        tiling: ``"auto"``, ``"exact"``, ``"measured"`` or ``"blend"``.
        tile: Largest side of what the model sees at once, margins included.
        overlap: For ``blend``: the share of a tile that the next one covers too, 0 to 0.9.
        tolerance: For ``measured``: largest difference of logits, relative to the largest logit.
        rows: ``(3, 8)`` computes the third of eight parts, for one of eight processes; the one that
            finds all parts there writes the file.
        write: ``"classes"``, ``"probabilities"`` (float16) or ``"logits"``.
        tta: Views to average: ``"none"``, ``"mirror"``, ``"flips"`` or ``"dihedral"``; see
            :func:`segzoo.predict_probabilities`.
        scales: Factors of the size, each of which is a view more; not with exact tiles.
        bands: Bands of the source to use, counted from 1; None where it has as many as the model.
        value_range: The values of the source that become 0 and 1, for types that do not tell.
        nodata: The value of pixels that are not known, instead of what the file says.
        min_confidence: Of masks: pixels whose class is less probable become 255, as unknown ones
            are; None for none.
        overwrite: Whether a file that exists already is replaced.
        progress: Whether to show a bar on stderr.

    Returns:
        The values or the file, and how they came about.

    Raises:
        ArgumentError: What was asked for cannot be had of this model or file.
        InputError: The source cannot be read.
        StorageError: The file cannot be written. Finished parts are kept; the same call goes on.
        MissingPackageError: The source or the file needs a package that is not installed.
    """
    wishes = Wishes(tiling, tile, overlap, tolerance)
    checks.choice("write", write, KINDS)
    part = _part(rows, sink)
    numbers, bounds = check_band_numbers(bands), check_range(value_range)
    views = Views(tta, scales)
    nodata = _nodata(nodata)
    with opened(source, nodata) as raster, pixel_model(model, views) as ready:
        if bounds is None and isinstance(raster, ArrayRaster) and raster.info.dtype.kind == "f":
            bounds = (0.0, 1.0)
        canvas = Canvas(raster, ready, bands=numbers, value_range=bounds, nodata=nodata)
        answers = answers_for(ready, write, min_confidence)
        names = getattr(model, "class_names", None) if ready.channels > 1 else None
        place = raster.info.georeference
        result = Result(answers, canvas.height, canvas.width, ready.classes, names, place)
        run = _Run(canvas, ready, wishes, result, part, progress)
        if isinstance(sink, (str, os.PathLike)):
            path = path_of("sink", sink)
            check_target(path, result, overwrite=overwrite)
            request = _request(canvas, ready, wishes, write, bounds)
            if answers.min_confidence is not None:
                request["min_confidence"] = answers.min_confidence
            return run.to_file(path, request)
        return run.to_memory(sink)


def _part(rows: tuple[int, int] | None, sink: Target | None) -> tuple[int, int]:
    if rows is None:
        return (1, 1)
    pair = checks.sequence(
        "rows", rows, lambda name, item: checks.integer(name, item, minimum=1, maximum=1 << 20)
    )
    if len(pair) != 2 or pair[0] > pair[1]:
        raise ArgumentError(
            f"rows must be (part, parts), from (1, parts) to (parts, parts); got {rows!r}."
        )
    if pair[1] > 1 and not isinstance(sink, (str, os.PathLike)):
        raise ArgumentError("A part of the rows needs a file as sink, which the parts share.")
    return pair[0], pair[1]


def _nodata(value: float | None) -> float | None:
    """A number, NaN and infinity among them, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
        raise ArgumentError(f"nodata must be a number or None, got {checks.shown(value)}.")
    try:
        return None if value is None else float(value)
    except OverflowError as error:
        raise ArgumentError(f"nodata={checks.shown(value)} is too large a number.") from error


@contextlib.contextmanager
def opened(source: Source, nodata: float | None) -> Iterator[Raster]:
    """The raster of whatever a person gave; what they opened stays open."""
    if isinstance(source, (str, os.PathLike)):
        with open_raster(source) as raster:
            placed = raster.info.georeference is not None or not is_georeferenced(source)
            if not placed and not has_package("rasterio"):
                raise MissingPackageError("rasterio", extra="geo")
            yield raster
    elif isinstance(source, (Tensor, np.ndarray)):
        yield from_array(source, nodata=nodata)
    elif isinstance(source, Raster):
        yield source
    elif hasattr(source, "block_shapes"):  # a dataset of rasterio: its windows are read otherwise
        yield DatasetRaster(source)
    elif isinstance(source, WindowSource):
        yield ArrayRaster(source, nodata=nodata, name=f"the {type(source).__name__}")
    else:
        raise InputError(
            f"A picture cannot be read from {type(source).__name__}. Expected a tensor or array "
            "(C, H, W), a file, a dataset of rasterio, or an object with shape and "
            "read(rows, columns)."
        )


class _Run:
    """One call: its picture, model and wishes, and what was counted."""

    def __init__(
        self,
        canvas: Canvas,
        model: PixelModel,
        wishes: Wishes,
        result: Result,
        part: tuple[int, int],
        progress: bool,
    ) -> None:
        self._canvas, self._model, self._wishes = canvas, model, wishes
        self._result, self._part, self._progress = result, part, progress
        self._tiles = self._skipped = 0
        self._counts: Counter[int] = Counter()

    def to_memory(self, sink: Any) -> TiledPrediction:
        """Into an array or a sink of a person's own."""
        result = self._result
        tiling = plan_tiling(self._model, self._canvas, self._wishes)
        bands = bands_of(tiling, self._canvas, self._model, result.answers)
        values = result.answers.empty(result.height, result.width) if sink is None else None
        target = values if sink is None else sink
        if isinstance(target, np.ndarray):
            _check_array(target, result)
        elif not isinstance(target, Sink):
            raise ArgumentError(
                f"Results cannot go to {type(sink).__name__}. Expected a file, an array, or an "
                "object with write(rows, values) and close()."
            )
        for top, band in self._computed(bands, range(len(bands.rows)), None):
            self._count(band)
            here = slice(top, top + band.shape[-2])
            if isinstance(target, np.ndarray):
                target[..., here, :] = band
            else:
                target.write(here, band)
        if not isinstance(target, np.ndarray):
            target.close()
        return self._done(values, None, tiling)

    def to_file(self, path: Path, request: dict[str, Any]) -> TiledPrediction:
        """Into parts beside the file; once all are there, into the file."""
        journal = Journal(path, request)
        found = journal.tiling()
        if found is None:
            planned = plan_tiling(self._model, self._canvas, self._wishes)
            found = journal.begin(planned.as_json())
        try:
            tiling = Tiling.from_json(found)
        except (KeyError, TypeError, IndexError) as error:
            raise StorageError(
                f"{journal.folder} has a damaged plan ({error!r}). Delete that folder."
            ) from error
        bands = bands_of(tiling, self._canvas, self._model, self._result.answers)
        count = len(bands.rows)
        mine = [i for i in share_of(count, self._part) if not journal.has(i)]
        for _ in self._computed(bands, mine, journal):
            pass
        # Two processes may find all parts there; the first removes them when it has written.
        if not all(journal.has(i) for i in range(count)):
            return self._done(None, path if _is_whole(path, journal) else None, tiling)

        def finished() -> Iterator[tuple[int, Values]]:
            for index in range(count):
                values = journal.read(index)
                self._count(values)
                yield bands.rows[index].start, values

        try:
            write_file(path, self._result, finished())
        except StorageError:
            if not _is_whole(path, journal):
                raise
            self._counts.clear()  # not all was seen
        journal.remove()
        return self._done(None, path, tiling)

    def _computed(
        self, bands: Bands, wanted: Sequence[int], journal: Journal | None
    ) -> Iterator[tuple[int, Values]]:
        total = len(wanted) * len(bands.columns)
        with tqdm(total=total, desc="tiles", unit="tile", disable=not self._progress) as bar:

            def step(ran: bool) -> None:
                self._tiles += 1
                self._skipped += not ran
                bar.update()

            for index in wanted:
                values = bands.compute(index, step)
                if journal is not None:
                    journal.write(index, values)
                yield bands.rows[index].start, values

    def _count(self, values: Values) -> None:
        if self._result.answers.kind == "classes":
            found, counts = np.unique(values, return_counts=True)
            self._counts.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))

    def _done(self, values: Values | None, path: Path | None, tiling: Tiling) -> TiledPrediction:
        answers, counts = self._result.answers, dict(self._counts)
        if counts and answers.min_confidence is None:  # else it is an answer, too
            counts.pop(int(answers.nodata), None)
        known = sum(counts.values())
        shares = {index: counts[index] / known for index in sorted(counts)}
        return TiledPrediction(values, path, tiling, self._tiles, self._skipped, shares)


def _is_whole(path: Path, journal: Journal) -> bool:
    """Whether another process has written the file, and removed the parts."""
    return not journal.folder.exists() and path.exists()


def _check_array(target: NDArray[Any], result: Result) -> None:
    """Raise for an array that the results do not fit into."""
    answers = result.answers
    expected = (*answers.empty(1, 1).shape[:-2], result.height, result.width)
    if target.shape != expected:
        raise ArgumentError(f"The array to fill has the shape {target.shape}; expected {expected}.")
    # Classes must stay what they are; real numbers may be rounded.
    casting: Literal["safe", "same_kind"] = "safe" if answers.kind == "classes" else "same_kind"
    if not np.can_cast(answers.dtype, target.dtype, casting):
        raise ArgumentError(
            f"The array to fill has the type {target.dtype}, which does not hold {answers.kind}; "
            f"expected {answers.dtype}."
        )
    if not target.flags.writeable:
        raise ArgumentError("The array to fill cannot be written to; give a copy of it.")


def _request(
    canvas: Canvas,
    model: PixelModel,
    wishes: Wishes,
    write: str,
    bounds: ValueRange | None,
) -> dict[str, Any]:
    """What a run is asked for, in words that another run can be compared by."""
    changed: Any = None
    path = canvas.raster.info.path
    if path.is_file():
        facts = path.stat()
        changed = [path.name, facts.st_size, int(facts.st_mtime)]
    else:  # an array, which nothing but its values tells from another
        changed = _digest(canvas.raster)
    return {
        "source": [changed, list(canvas.raster.shape), str(canvas.raster.info.dtype)],
        "model": fingerprint(model),
        "tiling": [wishes.mode, wishes.tile, wishes.overlap, wishes.tolerance],
        "write": write,
        "views": [model.views.tta, list(model.views.scales)],
        "bands": list(canvas.bands),
        "range": bounds,
        "nodata": str(canvas.nodata),
    }


def _digest(raster: Raster) -> str:
    """A digest of some rows, spread evenly from the first to the last."""
    digest = hashlib.blake2b(digest_size=16)
    last = raster.info.height - 1
    for row in sorted({last * step // (_ROWS - 1) for step in range(_ROWS)}):
        digest.update(raster.read(rows=slice(row, row + 1)).tobytes())
    return digest.hexdigest()
