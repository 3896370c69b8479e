"""``segzoo predict``: masks and overlays for picture files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ArgumentError, InputError
from .output import (
    PartialFailureError,
    device_option,
    json_option,
    one_line,
    print_json,
    show_progress,
)

if TYPE_CHECKING:
    from ..models import SegmentationModel


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


@click.command("predict")
@click.argument("image", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-m", "--model", required=True, help="A folder, or user/name on the Hub.")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the results."
)
@click.option("--revision", help="Branch, tag or commit of the model on the Hub.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist already.")
@device_option
@json_option
def predict_command(
    image: tuple[Path, ...],
    model: str,
    out: Path,
    revision: str | None,
    overwrite: bool,
    device: str,
    as_json: bool,
) -> None:
    """Segment each IMAGE: a file, or a folder for all pictures in it.

    For photo.jpg, OUT gets photo.png, whose pixel values are the classes (with a palette, so that
    it can be looked at), and photo_overlay.png, the mask laid over the picture. A second picture
    of the same name becomes photo_2.png. A picture that cannot be read is reported at the end, and
    the exit code is then 1; the others are done.

    \b
    Example:
      segzoo predict photo.jpg scans/ --model demo-output/model -o masks
    """
    from ..devices import choose_device
    from ..models import from_pretrained
    from ..pictures import find_pictures, make_folder

    jobs = plan_jobs(find_pictures(image), out)
    _check_outputs(jobs, overwrite)
    segmenter = from_pretrained(model, revision=revision).to(choose_device(device))
    make_folder(out)
    done, failed = _run(jobs, segmenter, progress=show_progress(as_json))
    if as_json:
        print_json(
            {"predictions": [asdict(item) for item in done], "failed": [str(e) for e in failed]}
        )
    else:
        for item in done:
            parts = ", ".join(f"{name} {share:.1%}" for name, share in item.shares.items())
            click.echo(f"{item.image} -> {item.mask}: {parts}")
    if failed:
        for error in failed:
            click.echo(f"segzoo: {one_line(error)}", err=True)
        raise PartialFailureError(f"{len(failed)} of {len(jobs)} pictures could not be segmented.")


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


def _check_outputs(jobs: Sequence[Job], overwrite: bool) -> None:
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


def _run(
    jobs: Sequence[Job], model: SegmentationModel, *, progress: bool
) -> tuple[list[Prediction], list[InputError]]:
    """Do the jobs; a picture that cannot be used is set aside, unless it is the only one."""
    from tqdm import tqdm

    done: list[Prediction] = []
    failed: list[InputError] = []
    for job in tqdm(jobs, desc="segmenting", unit="picture", disable=not progress):
        try:
            done.append(_predict(job, model))
        except InputError as error:
            if len(jobs) == 1:
                raise
            failed.append(error)
    return done, failed


def _predict(job: Job, model: SegmentationModel) -> Prediction:
    from ..pictures import read_picture, to_bands, write_mask, write_overlay

    picture = read_picture(job.image)
    try:
        bands = to_bands(picture, model.in_channels)
    except InputError as error:
        raise InputError(f"{job.image}: {error}") from error
    mask = model.predict(bands).cpu()
    classes = max(model.classes, 2)  # one logit tells two classes apart
    write_mask(job.mask, mask, classes=classes)
    write_overlay(job.overlay, picture, mask)
    names = model.config.class_names if model.classes > 1 else None
    counts = mask.flatten().bincount(minlength=classes).tolist()
    shares = {
        names[index] if names else f"class {index}": pixels / mask.numel()
        for index, pixels in enumerate(counts)
        if pixels
    }
    return Prediction(**vars(job), shares=shares)
