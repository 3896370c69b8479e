"""Options of ``segzoo predict`` on many pictures: parts, processes, what was done."""

from __future__ import annotations

import click

from .output import Command, with_options
from .paths import GivenPath
from .tiles import Part

#: What does the work.
ENGINES = ("local", "ray")

_OPTIONS = (
    click.option("--recursive", is_flag=True, help="Look into subfolders; OUT gets the same."),
    click.option("--overwrite", is_flag=True, help="Replace results that exist already."),
    click.option(
        "--skip-existing", is_flag=True, help="Leave out pictures whose masks exist already."
    ),
    click.option(
        "--overlays/--no-overlays",
        default=True,
        show_default=True,
        help="Write the picture with its mask laid over it, too.",
    ),
    click.option(
        "--shard",
        type=Part(),
        metavar="PART/PARTS",
        help="Do a part of the pictures, such as 3/16: for 16 machines that share the folders.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(0, 1024),
        default=0,
        show_default=True,
        help="Processes, each with its own model; 0 for this one.",
    ),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default="local",
        show_default=True,
        help="What runs the workers: this machine, or a cluster of Ray.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1, 1024),
        default=1,
        show_default=True,
        help="Pictures of one size that the model sees at a time.",
    ),
    click.option(
        "--manifest",
        type=GivenPath(dir_okay=False),
        help="File of JSON lines on each picture; a second run does what is missing in it.",
    ),
    click.option(
        "--parquet",
        type=GivenPath(dir_okay=False),
        help="At the end, write the manifest as a table of Parquet, too.",
    ),
)


def many_options(command: Command) -> Command:
    """``--recursive`` and what goes with it."""
    return with_options(command, _OPTIONS)
