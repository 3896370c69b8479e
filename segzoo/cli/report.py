"""``segzoo report``: a training as one page of HTML."""

from __future__ import annotations

from pathlib import Path

import click

from .paths import GivenPath


@click.command("report")
@click.argument("model", type=GivenPath())
@click.option(
    "-o",
    "--out",
    type=GivenPath(),
    help="The page; training/report.html in MODEL if left.",
)
def report_command(model: Path, out: Path | None) -> None:
    """Write one page of HTML on the training of the model in the folder MODEL.

    Curves, scores of each class, confusions, calibration, samples, recipe and data. The page needs
    no other file and no network, so that it can be sent as it is; it holds pictures of the data.

    \b
    Example:
      segzoo report my-model -o report.html
    """
    from ..training.report.page import write_report

    click.echo(str(write_report(model, out)))
