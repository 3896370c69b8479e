"""Picture files in, mask files out: which files, and one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from ..data.drawing import write_mask, write_overlay
from ..data.pictures import to_bands
from ..data.pixel_values import choose_bands, read_pixels
from ..data.raster import MAX_PIXELS, open_raster
from ..errors import ArgumentError, InputError
from .masks import Segmenter


@dataclass(frozen=True)
class Job:
    """One picture and what is written for it."""

    image: Path
    mask: Path
    overlay: Path


@dataclass(frozen=True)
class Prediction(Job):
    """A job that was done, with the share of the pixels that each class has."""

    shares: dict[str, float]


def plan_jobs(images: Sequence[Path], out: Path) -> list[Job]:
    """Output names such that no two pictures share one, on any file system.

    >>> for job in plan_jobs([Path("a/x.jpg"), Path("b/X.png")], Path("out")):
    ...     print(job.mask.name, job.overlay.name)
    x.png x_overlay.png
    X_2.png X_2_overlay.png
    """
    jobs: list[Job] = []
    taken: set[str] = set()
    for image in images:
        job = next(job for job in _candidates(image, out) if not _names(job) & taken)
        taken |= _names(job)
        jobs.append(job)
    return jobs


def _candidates(image: Path, out: Path) -> Iterator[Job]:
    for number in count(1):
        name = image.stem if number == 1 else f"{image.stem}_{number}"
        yield Job(image, out / f"{name}.png", out / f"{name}_overlay.png")


def _names(job: Job) -> set[str]:
    """Case folded: some file systems do not tell ``x`` from ``X``."""
    return {job.mask.name.casefold(), job.overlay.name.casefold()}


def check_outputs(jobs: Sequence[Job], *, overwrite: bool) -> None:
    """Raise before anything is done where a result would replace what should stay.

    Raises:
        ArgumentError: A result would replace one of the pictures, or without ``overwrite`` a file
            that is there already.
    """
    outputs = [path for job in jobs for path in (job.mask, job.overlay)]
    inputs = {job.image.resolve() for job in jobs}
    for path in outputs:
        if path.resolve() in inputs:
            raise ArgumentError(
                f"{path} is one of the pictures to segment and would be replaced by a result. "
                "Choose another folder for -o."
            )
    existing = [path for path in outputs if path.exists()]
    if existing and not overwrite:
        raise ArgumentError(
            f"{existing[0]} exists already ({len(existing)} such files). Choose another folder for "
            "-o, or add --overwrite."
        )


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


def run_jobs(
    jobs: Sequence[Job], model: Segmenter, *, progress: bool, reading: Reading | None = None
) -> tuple[list[Prediction], list[InputError]]:
    """Do the jobs; a picture that cannot be used is set aside, unless it is the only one."""
    done: list[Prediction] = []
    failed: list[InputError] = []
    for job in tqdm(jobs, desc="segmenting", unit="picture", disable=not progress):
        try:
            done.append(_predict(job, model, reading or Reading()))
        except InputError as error:
            if len(jobs) == 1:
                raise
            failed.append(error)
    return done, failed


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


def _predict(job: Job, model: Segmenter, reading: Reading) -> Prediction:
    picture, pixels = _read(job.image, model.in_channels, reading)
    mask = model.predict(pixels).cpu()
    classes = max(model.classes, 2)  # one logit tells two classes apart
    write_mask(job.mask, mask, classes=classes)
    write_overlay(job.overlay, picture, mask)
    names = model.class_names if model.classes > 1 else None
    counts = mask.flatten().bincount(minlength=classes).tolist()
    shares = {
        names[index] if names else f"class {index}": pixels / mask.numel()
        for index, pixels in enumerate(counts)
        if pixels
    }
    return Prediction(**vars(job), shares=shares)
