"""``segzoo predict``: masks and overlays for picture files."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from ..errors import ArgumentError
from .many import many_options
from .output import device_option, json_option, revision_option, say, show_progress
from .paths import GivenPath
from .prediction_report import Report
from .reading import reading_options
from .tiles import asks_for_tiles, tiling_options

if TYPE_CHECKING:
    from ..folders.jobs import Job, Outcome
    from ..folders.listing import FolderJobs
    from ..folders.task import Task

#: Of a shell: 128 and the number of the signal.
_BASE = 128


@click.command("predict")
@click.argument("image", nargs=-1, required=True, type=GivenPath())
@click.option(
    "-m", "--model", required=True, help="A folder, an exported file, or user/name on the Hub."
)
@click.option("-o", "--out", required=True, type=GivenPath(), help="Folder for the results.")
@revision_option
@many_options
@reading_options
@tiling_options
@device_option
@json_option
def predict_command(image: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
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
      segzoo predict archive/ --recursive --workers 8 --manifest run.jsonl -m my-model -o masks
    """
    from ..files.atomic import check_file
    from ..folders.manifest_table import require_parquet

    if options["parquet"] is not None:
        if options["manifest"] is None:
            raise ArgumentError("--parquet is the manifest as a table: give --manifest, too.")
        require_parquet()
        check_file(options["parquet"])
    if options["engine"] == "ray":
        from ..folders.on_ray import require_ray

        require_ray()
    options["replaces"] = _replaces(options)
    progress = show_progress(as_json)
    one_file = len(image) == 1 and not image[0].is_dir()
    task = _task(options, progress=progress and one_file)
    planned = _planned(image, out, task, options)
    alone = isinstance(planned, list) and len(planned) == 1
    report = Report(as_json)
    with _terminable():
        try:
            skipped = _run(
                planned, out, task, report, options, alone=alone, bar=progress and not one_file
            )
            for text in () if isinstance(planned, list) else planned.unreadable:
                report.fail(text)
            report.all_done()
        finally:  # whatever stops the run, what is done is told
            report.close()
    if skipped and not as_json:
        click.echo(f"{skipped} of the pictures had their results already.")
    _tell_left_out(planned, image)
    report.raise_failures()


def _elsewhere(options: dict[str, Any]) -> bool:
    """Whether other processes do the jobs."""
    return bool(options["workers"]) or options["engine"] != "local"


def _replaces(options: dict[str, Any]) -> bool:
    """Whether results that exist may be replaced: what is half done is done again.

    Those of a manifest's first run are somebody else's.
    """
    from ..folders.manifest import has_begun

    if options["overwrite"] or options["skip_existing"]:
        return True
    return options["manifest"] is not None and has_begun(options["manifest"])


def _task(options: dict[str, Any], *, progress: bool) -> Task:
    from ..data.raster import MAX_PIXELS
    from ..folders.task import Reading, Task
    from ..folders.tiled_jobs import TiledOptions

    given = ("tile", "overlap", "tolerance", "rows", "write", "nodata", "min_confidence")
    names = (*given, "tta", "scales")
    return Task(
        options["model"],
        revision=options["revision"],
        device=options["device"],
        reading=Reading(
            options["bands"], options["value_range"], options["max_pixels"] or MAX_PIXELS
        ),
        tiles=TiledOptions(
            tiling=options["tiling"] or "auto",
            **{name: options[name] for name in names},
            # Of jobs that others do it is looked before whether they would replace something.
            overwrite=options["replaces"] or _elsewhere(options),
            progress=progress,
        ),
        in_tiles=asks_for_tiles(options),
        overlays=options["overlays"],
        batch_size=options["batch_size"],
    )


def _planned(
    image: Sequence[Path], out: Path, task: Task, options: dict[str, Any]
) -> FolderJobs | list[Job]:
    from ..data.pictures import find_pictures
    from ..files.local import is_there
    from ..folders.jobs import check_outputs, plan_jobs
    from ..folders.listing import FolderJobs
    from ..folders.shards import Shard

    shard = Shard(*options["shard"]) if options["shard"] else None
    if options["recursive"]:
        found = FolderJobs(image, out, shard=shard)
        if options["manifest"] is not None and not options["replaces"] and is_there(out):
            # Before the manifest begins: what is there is the run's own from then on.
            for job in FolderJobs(image, out, shard=shard):
                check_outputs([job], task.ending, overlays=task.overlays, overwrite=False)
        return found
    planned = plan_jobs(find_pictures(image), out)
    if shard is not None:
        planned = [job for job in planned if shard.holds(job.image.name)]
    check_outputs(planned, task.ending, overlays=task.overlays, overwrite=options["replaces"])
    return planned


def _run(
    planned: FolderJobs | list[Job],
    out: Path,
    task: Task,
    report: Report,
    options: dict[str, Any],
    *,
    alone: bool,
    bar: bool,
) -> int:
    """Do what is to be done; how many were done before."""
    from tqdm import tqdm

    from ..files import leftovers
    from ..files.atomic import make_folder
    from ..folders import engines
    from ..folders.choice import Chosen
    from ..folders.manifest import Manifest
    from ..folders.manifest_table import write_table
    from ..folders.worker import fingerprint_of, load
    from ..prediction.masks import check_confidence

    elsewhere, path = _elsewhere(options), options["manifest"]
    # Here it is only looked at where others compute.
    model = load(replace(task, device="cpu") if elsewhere else task)
    check_confidence(task.tiles.min_confidence, model.classes)
    expected = fingerprint_of(model) if elsewhere or path is not None else ""
    make_folder(out)
    leftovers.sweep(out, below=True)  # of runs that were killed
    total = len(planned) if isinstance(planned, list) else None
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(
            tqdm(total=total, desc="segmenting", unit="picture", disable=not bar)
        )
        record = None
        if path is not None:
            record = Manifest(path, {"model": expected, **task.decides()})
            stack.callback(record.close)

        def done(outcome: Outcome) -> None:
            if record is not None:
                record.add(outcome)
            report.add(outcome)
            shown.update()

        chosen = Chosen(
            planned,
            task,
            done,
            skip_existing=options["skip_existing"],
            record=record,
            # Of files and plain folders it was looked at before, with a look into each.
            check=elsewhere and options["recursive"] and not options["replaces"],
        )
        if options["engine"] == "ray":
            workers = options["workers"] or 1
            engines.do_on_ray(chosen, task, done, workers=workers, expected=expected)
        elif options["workers"]:
            engines.do_in_processes(
                chosen, task, done, workers=options["workers"], expected=expected
            )
        else:
            engines.do_here(chosen, model, task, done, alone=alone)
    if options["parquet"] is not None:
        write_table(path, options["parquet"])
    return chosen.skipped


def _tell_left_out(planned: FolderJobs | list[Job], image: Sequence[Path]) -> None:
    from ..folders.listing import FolderJobs, in_words, left_out_of

    if isinstance(planned, FolderJobs):
        left_out = in_words(planned.left_out)
    else:
        left_out = in_words(*left_out_of(image))
    if left_out:
        say(f"segzoo: {left_out}", err=True)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, which clusters send, ends the program as Ctrl-C does: what is done is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_BASE + number)

    before: Any = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        # None: set by something other than Python, which cannot be set again from here.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
