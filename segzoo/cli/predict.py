"""``segzoo predict``: masks and overlays for picture files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
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
    say,
    show_progress,
)
from .reading import reading_options
from .tiles import asks_for_tiles, tiling_options

if TYPE_CHECKING:
    from ..prediction.jobs import Failure, Job, Prediction
    from ..prediction.manifest import Manifest
    from ..prediction.tiled_jobs import TiledOptions


@click.command("predict")
@click.argument("image", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-m", "--model", required=True, help="A folder, an exported file, or user/name on the Hub."
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for the results."
)
@click.option("--revision", help="Branch, tag or commit of the model on the Hub.")
@click.option("--recursive", is_flag=True, help="Look into subfolders; OUT gets the same.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist already.")
@click.option(
    "--skip-existing", is_flag=True, help="Leave out pictures whose results exist already."
)
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of JSON lines on each picture; a second run does what is missing in it.",
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
    recursive: bool,
    overwrite: bool,
    skip_existing: bool,
    manifest: Path | None,
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
    from ..data.pictures import find_pictures
    from ..data.pixel_values import check_range
    from ..data.raster import MAX_PIXELS
    from ..files.atomic import make_folder
    from ..prediction.folders import FolderJobs, in_words, left_out_of
    from ..prediction.jobs import Reading, check_outputs, plan_jobs, run_jobs
    from ..prediction.tiled_jobs import TiledOptions, tiled_ending

    reading = Reading(bands, check_range(value_range), max_pixels or MAX_PIXELS)
    asked = asks_for_tiles(options)
    progress = show_progress(as_json)
    # What is half done is done again.
    replaces = overwrite or skip_existing or manifest is not None
    tiles = TiledOptions(
        **{**options, "tiling": options["tiling"] or "auto"},
        overwrite=replaces,
        progress=progress and len(image) == 1 and not image[0].is_dir(),
    )

    def ending(path: Path) -> str | None:
        return tiled_ending(path, asked=asked, write=tiles.write, max_pixels=reading.max_pixels)

    planned: Iterable[Job]
    alone = False
    if recursive:
        planned = FolderJobs(image, out, tiled=ending)
    else:
        planned = plan_jobs(find_pictures(image), out, tiled=ending)
        alone = len(planned) == 1
        check_outputs(planned, overwrite=replaces)
    segmenter = _load(model, revision, device)
    make_folder(out)
    record = _open_manifest(manifest, segmenter, tiles, reading)
    chosen = _Chosen(planned, skip_existing, record)
    report = _Report(as_json)
    with closing(record) if record else nullcontext():
        try:
            for outcome in run_jobs(
                chosen, segmenter, progress=progress, alone=alone, reading=reading, tiles=tiles
            ):
                report.add(outcome)
                chosen.remember(outcome)
        finally:  # whatever stops the run, what is done is told
            report.close()
    if chosen.skipped and not as_json:
        click.echo(f"{chosen.skipped} of the pictures had their results already.")
    left_out = (
        in_words(planned.left_out)
        if isinstance(planned, FolderJobs)
        else in_words(*left_out_of(image))
    )
    if left_out:
        say(f"segzoo: {left_out}", err=True)
    report.raise_failures()


def _load(model: str, revision: str | None, device: str) -> Any:
    """A saved model, or an exported file where that is what there is."""
    from ..architectures.base import from_pretrained
    from ..devices import choose_device
    from ..inference.export.exported import open_exported

    if Path(model).suffix.lower() in (".onnx", ".xml") and Path(model).is_file():
        return open_exported(model)
    return from_pretrained(model, revision=revision).to(choose_device(device))


def _open_manifest(
    path: Path | None, segmenter: Any, tiles: TiledOptions, reading: Any
) -> Manifest | None:
    from ..prediction.manifest import Manifest
    from ..prediction.pixel_model import fingerprint, pixel_model

    if path is None:
        return None
    with pixel_model(segmenter) as model:
        run = {"model": fingerprint(model)}
    options = {name: value for name, value in asdict(tiles).items() if name not in _NO_MATTER}
    return Manifest(path, {**run, "options": options, "reading": asdict(reading)})


#: Options that change nothing in a result.
_NO_MATTER = ("rows", "overwrite", "progress")


class _Chosen:
    """The jobs that are to be done, and how many were done before."""

    def __init__(
        self, planned: Iterable[Job], skip_existing: bool, manifest: Manifest | None
    ) -> None:
        self._planned, self._manifest = planned, manifest
        self._skip_existing = skip_existing
        self.skipped = 0

    def __iter__(self) -> Iterator[Job]:
        for job in self._planned:
            there = self._skip_existing and all(path.exists() for path in job.outputs)
            if there or (self._manifest and self._manifest.is_done(job.image, job.outputs)):
                self.skipped += 1
            else:
                yield job

    def remember(self, outcome: Prediction | Failure) -> None:
        """Write it into the manifest, where there is one."""
        from ..prediction.jobs import Failure

        if self._manifest is None:
            return
        if isinstance(outcome, Failure):
            self._manifest.failed(outcome.image, outcome.error)
        elif outcome.whole:
            self._manifest.done(outcome.image, outcome.mask, outcome.shares)


class _Report:
    """What is printed: lines at once, or JSON at the end; failures last."""

    def __init__(self, as_json: bool) -> None:
        self._as_json, self._count = as_json, 0
        self._done: list[dict[str, Any]] = []
        self._failed: list[str] = []

    def add(self, outcome: Prediction | Failure) -> None:
        """A picture that was done, or failed."""
        from ..prediction.jobs import Failure

        self._count += 1
        if isinstance(outcome, Failure):
            self._failed.append(str(outcome.error))
        elif self._as_json:
            self._done.append(asdict(outcome))
        else:
            _print(outcome)

    def close(self) -> None:
        """Print JSON, if that is wanted: also of a run that was stopped, but not of wrong use."""
        if self._as_json and self._count:
            print_json({"predictions": self._done, "failed": self._failed})

    def raise_failures(self) -> None:
        """End with exit code 1 where pictures failed."""
        if not self._failed:
            return
        for text in self._failed:
            say(f"segzoo: {one_line(text)}", err=True)
        raise PartialFailureError(
            f"{len(self._failed)} of {self._count} pictures could not be segmented."
        )


def _print(done: Prediction) -> None:
    if not done.whole:
        say(f"{done.image}: this part is done; {done.mask} waits for the others")
        return
    parts = ", ".join(f"{name} {share:.1%}" for name, share in done.shares.items())
    say(f"{done.image} -> {done.mask}" + (f": {parts}" if parts else ""))
    if done.tiling is not None:
        say(f"  {done.tiling['mode']}: {done.tiling['reason']}")
