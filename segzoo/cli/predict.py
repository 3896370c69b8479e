"""``segzoo predict``: masks and overlays for picture files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from .tiles import asks_for_tiles, tiling_options

if TYPE_CHECKING:
    from ..prediction.jobs import Failure, Prediction


@click.command("predict")
@click.argument("image", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-m", "--model", required=True, help="A folder, an exported file, or user/name on the Hub."
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the results."
)
@click.option("--revision", help="Branch, tag or commit of the model on the Hub.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist already.")
@click.option(
    "--skip-existing", is_flag=True, help="Leave out pictures whose results exist already."
)
@reading_options
@tiling_options
@device_option
@json_option
def predict_command(
    image: tuple[Path, ...],
    model: str,
    out: Path,
    revision: str | None,
    overwrite: bool,
    skip_existing: bool,
    bands: tuple[int, ...] | None,
    value_range: tuple[float, float] | None,
    max_pixels: int | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Segment each IMAGE: a file, or a folder for all pictures in it.

    For photo.jpg, OUT gets photo.png, whose pixel values are the classes (with a palette, so that
    it can be looked at), and photo_overlay.png, the mask laid over the picture. A second picture
    of the same name becomes photo_2.png. A picture that cannot be read is reported at the end, and
    the exit code is then 1; the others are done.

    Pictures of more than 16 megapixels are cut into tiles, and a GeoTIFF becomes a GeoTIFF. These
    get no overlay.

    \b
    Example:
      segzoo predict photo.jpg scans/ --model demo-output/model -o masks
      segzoo predict scene.tif --tiling exact --bands 4,3,2 --range 0 10000 -m my-model -o masks
    """
    from ..architectures.base import from_pretrained
    from ..data.pictures import find_pictures
    from ..data.pixel_values import check_range
    from ..data.raster import MAX_PIXELS
    from ..devices import choose_device
    from ..files.atomic import make_folder
    from ..inference.export.exported import open_exported
    from ..prediction.jobs import Failure, Reading, check_outputs, plan_jobs, run_jobs
    from ..prediction.tiled_jobs import TiledOptions, tiled_ending

    reading = Reading(bands, check_range(value_range), max_pixels or MAX_PIXELS)
    asked = asks_for_tiles(options)
    progress = show_progress(as_json)
    tiles = TiledOptions(
        **{**options, "tiling": options["tiling"] or "auto"},
        overwrite=overwrite,
        progress=progress and len(image) == 1,
    )

    def ending(path: Path) -> str | None:
        return tiled_ending(path, asked=asked, write=tiles.write, max_pixels=reading.max_pixels)

    planned = plan_jobs(find_pictures(image), out, tiled=ending)
    jobs = planned
    if skip_existing:
        jobs = [job for job in planned if not all(path.exists() for path in job.outputs)]
    check_outputs(jobs, overwrite=overwrite or skip_existing)
    segmenter: Any
    if Path(model).suffix.lower() in (".onnx", ".xml") and Path(model).is_file():
        segmenter = open_exported(model)
    else:
        segmenter = from_pretrained(model, revision=revision).to(choose_device(device))
    make_folder(out)
    outcomes: list[Prediction | Failure] = []
    try:
        for outcome in run_jobs(jobs, segmenter, progress=progress, reading=reading, tiles=tiles):
            outcomes.append(outcome)
            if not as_json:
                _print(outcome)
    finally:  # whatever stops the run, what is done is told
        if as_json and (outcomes or not jobs):
            _print_all(outcomes)
    if len(planned) > len(jobs) and not as_json:
        click.echo(f"{len(planned) - len(jobs)} pictures had their results already.")
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if failures:
        for failure in failures:
            click.echo(f"segzoo: {one_line(failure.error)}", err=True)
        raise PartialFailureError(
            f"{len(failures)} of {len(jobs)} pictures could not be segmented."
        )


def _print(outcome: Prediction | Failure) -> None:
    """A line about a picture that is done; those that failed are told at the end."""
    from ..prediction.jobs import Failure

    if isinstance(outcome, Failure):
        return
    if not outcome.whole:
        click.echo(f"{outcome.image}: this part is done; {outcome.mask} waits for the others")
        return
    parts = ", ".join(f"{name} {share:.1%}" for name, share in outcome.shares.items())
    click.echo(f"{outcome.image} -> {outcome.mask}" + (f": {parts}" if parts else ""))
    if outcome.tiling is not None:
        click.echo(f"  {outcome.tiling['mode']}: {outcome.tiling['reason']}")


def _print_all(outcomes: list[Prediction | Failure]) -> None:
    from ..prediction.jobs import Failure

    failed = [str(outcome.error) for outcome in outcomes if isinstance(outcome, Failure)]
    done = [asdict(outcome) for outcome in outcomes if not isinstance(outcome, Failure)]
    print_json({"predictions": done, "failed": failed})
