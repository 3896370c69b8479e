"""``segzoo check``: pictures and masks, before anything is trained on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..errors import DataError
from .data_options import data_options, open_given_data, strict_option
from .in_options import in_options
from .output import PartialFailureError, json_option, print_json, show_progress
from .paths import GivenPath


@click.command("check")
@data_options
@click.option("--seed", default=0, show_default=True, help="Of the share that is kept apart.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads that read; up to 4 if left.")
@click.option(
    "-o",
    "--out",
    type=GivenPath(),
    help="Draw twelve pictures with their masks into this PNG.",
)
@strict_option
@json_option
def check_command(
    seed: int, workers: int | None, out: Path | None, strict: bool, as_json: bool, **given: Any
) -> None:
    """Check the pictures in IMAGES and their masks in MASKS.

    A mask has its picture's name. IMAGES may be a CSV with the columns image and mask instead, or
    one folder with images/ and masks/ (or train/ and val/ with the two in each) in it.

    Every pair is read once. Errors stand in the way of training, and the exit code is then 1;
    warnings do not, unless --strict is given.

    \b
    Example:
      segzoo check images/ masks/ --ignore-index 255 -o samples.png
    """
    from ..data.check import check_data
    from ..data.contact_sheet import check_sheet, draw_samples
    from ..data.faults import counted

    progress = show_progress(as_json)
    try:
        data = open_given_data(seed=seed, progress=progress, **given)
    except DataError as error:
        if as_json:
            message = in_options(str(error))
            print_json({"findings": [{"level": "error", "message": message}]})
        raise PartialFailureError(str(error)) from error
    if out is not None:
        check_sheet(data, out)
    found = check_data(data, workers=workers, progress=progress)
    findings = [replace(item, message=in_options(item.message)) for item in found.findings]
    report = replace(found, findings=tuple(findings))
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(str(report))
    if out is not None:
        draw_samples(data, out)
        click.echo(f"{out}: pictures with their masks", err=as_json)
    if report.errors:
        raise PartialFailureError(
            f"{counted(len(report.errors), 'error')} to mend before training."
        )
    if strict and report.warnings:
        raise PartialFailureError(
            f"{counted(len(report.warnings), 'warning')}, which --strict does not let pass."
        )
    if not as_json:
        click.echo("\nThese data can be trained on.")
