"""Picture files in, mask files out: which files, and one after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..data.drawing import write_mask, write_overlay
from ..data.pictures import to_bands
from ..data.pixel_values import choose_bands, read_pixels
from ..data.raster import MAX_PIXELS, open_raster
from ..errors import ArgumentError, InputError, SegzooError
from ..files.atomic import make_folder
from .masks import Segmenter
from .tiled_jobs import TiledOptions, predict_job


@dataclass(frozen=True)
class Job:
    """One picture and what is written for it.

    Args:
        image: The picture.
        mask: Its result.
        overlay: The picture with its mask laid over it, or None: a picture in tiles gets none.
    """

    image: Path
    mask: Path
    overlay: Path | None

    @property
    def outputs(self) -> list[Path]:
        """What is written."""
        return [path for path in (self.mask, self.overlay) if path is not None]


@dataclass(frozen=True)
class Prediction(Job):
    """A job that was done.

    Args:
        shares: The share of the pixels that each class has.
        tiling: How the picture was cut, or None where it was not.
        whole: Whether its result is there: of one in parts, others may be missing still.
    """

    shares: dict[str, float]
    tiling: dict[str, Any] | None = None
    whole: bool = True


@dataclass(frozen=True)
class Failure:
    """A job that could not be done, with the reason."""

    image: Path
    error: SegzooError


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Args:
        bands: The bands to take, counted from 1; None for what the model takes.
        value_range: The values that become 0 and 1; None where the type tells them.
        max_pixels: The largest picture that is decoded as a whole.
    """

    bands: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS


def plan_jobs(
    images: Sequence[Path],
    out: Path,
    *,
    tiled: Callable[[Path], str | None] = lambda path: None,
    taken: set[str] | None = None,
) -> list[Job]:
    """Output names such that no two pictures share one, on any file system.

    >>> for job in plan_jobs([Path("a/x.jpg"), Path("b/X.png")], Path("out")):
    ...     print(job.mask.name, job.overlay.name)
    x.png x_overlay.png
    X_2.png X_2_overlay.png

    Args:
        images: The pictures.
        out: The folder of the results.
        tiled: Gives the ending of the result of a picture that is cut into tiles, else None.
        taken: Names in ``out`` that others have; those of the jobs are added.
    """
    jobs: list[Job] = []
    taken = set() if taken is None else taken
    for image in images:
        candidates = _candidates(image, out, tiled(image))
        job = next(job for job in candidates if not _names(job) & taken)
        taken |= _names(job)
        jobs.append(job)
    return jobs


def _candidates(image: Path, out: Path, ending: str | None) -> Iterator[Job]:
    for number in count(1):
        name = image.stem if number == 1 else f"{image.stem}_{number}"
        overlay = out / f"{name}_overlay.png" if ending is None else None
        yield Job(image, out / f"{name}{ending or '.png'}", overlay)


def _names(job: Job) -> set[str]:
    """Case folded: some file systems do not tell ``x`` from ``X``."""
    return {path.name.casefold() for path in job.outputs}


def check_outputs(jobs: Sequence[Job], *, overwrite: bool) -> None:
    """Raise before anything is done where a result would replace what should stay.

    Raises:
        ArgumentError: A result would replace one of the pictures, or without ``overwrite`` a file
            that is there already.
    """
    outputs = [path for job in jobs for path in job.outputs]
    # Not Path.resolve: of links that go in a circle it raises errors of its own.
    inputs = {os.path.realpath(job.image) for job in jobs}
    for path in outputs:
        if os.path.realpath(path) in inputs:
            raise ArgumentError(
                f"{path} is one of the pictures to segment and would be replaced by a result. "
                "Choose another folder for -o."
            )
    existing = [path for path in outputs if path.exists()]
    if existing and not overwrite:
        raise ArgumentError(
            f"{existing[0]} exists already ({len(existing)} such files). Choose another folder for "
            "-o, or add --skip-existing to do what is missing, or --overwrite."
        )


def run_jobs(
    jobs: Iterable[Job],
    model: Segmenter,
    *,
    progress: bool,
    alone: bool = False,
    reading: Reading | None = None,
    tiles: TiledOptions | None = None,
) -> Iterator[Prediction | Failure]:
    """Do the jobs, one after the other; each is given as soon as it is done.

    A picture that fails does not stop the others, whatever the reason, unless it is alone. Folders
    for results are made as they are needed.

    Raises:
        SegzooError: The only picture failed.
    """
    reading, tiles = reading or Reading(), tiles or TiledOptions()
    barred = progress and not (alone and tiles.progress)  # then its tiles have a bar
    for job in tqdm(jobs, desc="segmenting", unit="picture", disable=not barred):
        try:
            make_folder(job.mask.parent)
            check_outputs([job], overwrite=tiles.overwrite)
            if job.overlay is None:
                yield _predict_tiled(job, model, reading, tiles)
            else:
                yield _predict(job, job.overlay, model, reading)
        except (SegzooError, MemoryError, RuntimeError) as error:
            told = _told(job, error)
            if told is None:
                raise
            if alone:
                raise told from error
            yield Failure(job.image, told)


def _told(job: Job, error: Exception) -> SegzooError | None:
    """A failure of one picture in our words; None for what is none of a picture's."""
    if isinstance(error, SegzooError):
        named = str(job.image) in str(error) or str(job.mask.parent) in str(error)
        return error if named else type(error)(f"{job.image}: {error}")
    if isinstance(error, MemoryError) or "memory" in str(error):
        return InputError(
            f"{job.image}: there is not enough memory for it in one piece. Cut it into tiles: "
            "--tiling auto."
        )
    return None


def _read(path: Path, wanted: int, reading: Reading) -> tuple[Tensor, Tensor]:
    """The pixels of a picture for a person, and for a model of ``wanted`` bands."""
    with open_raster(path, max_pixels=reading.max_pixels) as raster:
        info = raster.info
        if reading.bands is None and wanted == 1 and info.bands - info.alpha == 3:
            colours = read_pixels(raster, (1, 2, 3), reading.value_range)
            return colours, to_bands(colours, 1)
        numbers = choose_bands(info, reading.bands, wanted)
        pixels = read_pixels(raster, numbers, reading.value_range)
    return pixels, pixels


def _predict(job: Job, overlay: Path, model: Segmenter, reading: Reading) -> Prediction:
    picture, pixels = _read(job.image, model.in_channels, reading)
    mask = model.predict(pixels).cpu()
    classes = max(model.classes, 2)  # one logit tells two classes apart
    write_mask(job.mask, mask, classes=classes)
    write_overlay(overlay, picture, mask)
    counts = mask.flatten().bincount(minlength=classes).tolist()
    shares = {index: pixels / mask.numel() for index, pixels in enumerate(counts) if pixels}
    return Prediction(**vars(job), shares=_named(shares, model))


def _predict_tiled(job: Job, model: Segmenter, reading: Reading, tiles: TiledOptions) -> Prediction:
    found = predict_job(
        model,
        job.image,
        job.mask,
        tiles,
        bands=reading.bands,
        value_range=reading.value_range,
        max_pixels=reading.max_pixels,
    )
    return Prediction(
        **vars(job),
        shares=_named(found.shares, model),
        tiling=found.tiling.as_json(),
        whole=found.path is not None,
    )


def _named(shares: dict[int, float], model: Segmenter) -> dict[str, float]:
    names = model.class_names if model.classes > 1 else None
    return {names[i] if names else f"class {i}": share for i, share in shares.items()}
