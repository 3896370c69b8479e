"""``segzoo predict``: masks and overlays for picture files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .output import (
    PartialFailureError,
    device_option,
    json_option,
    one_line,
    print_json,
    show_progress,
)
from .reading import reading_options


@click.command("predict")
@click.argument("image", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-m", "--model", required=True, help="A folder, or user/name on the Hub.")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the results."
)
@click.option("--revision", help="Branch, tag or commit of the model on the Hub.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist already.")
@reading_options
@device_option
@json_option
def predict_command(
    image: tuple[Path, ...],
    model: str,
    out: Path,
    revision: str | None,
    overwrite: bool,
    bands: tuple[int, ...] | None,
    value_range: tuple[float, float] | None,
    max_pixels: int | None,
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
    from ..architectures.base import from_pretrained
    from ..data.pictures import find_pictures
    from ..data.pixel_values import check_range
    from ..data.raster import MAX_PIXELS
    from ..devices import choose_device
    from ..files.atomic import make_folder
    from ..prediction.jobs import Reading, check_outputs, plan_jobs, run_jobs

    reading = Reading(bands, check_range(value_range), max_pixels or MAX_PIXELS)

    jobs = plan_jobs(find_pictures(image), out)
    check_outputs(jobs, overwrite=overwrite)
    segmenter = from_pretrained(model, revision=revision).to(choose_device(device))
    make_folder(out)
    done, failed = run_jobs(jobs, segmenter, progress=show_progress(as_json), reading=reading)
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
