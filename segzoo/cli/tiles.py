"""Options on tiles and views, for ``segzoo predict``."""

from __future__ import annotations

from typing import Any

import click

from ..checks import shown
from .output import Command, with_options
from .reading import whole_number


class Part(click.ParamType["tuple[int, int]"]):
    """``3/8``: the third of eight parts."""

    name = "part"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Part and parts, or a refusal."""
        first, _, second = str(value).partition("/")
        part, parts = whole_number(first), whole_number(second)
        if part is not None and parts is not None and 1 <= part <= parts:
            return part, parts
        self.fail(f"{shown(value)} is no part such as 3/8 (1/8 to 8/8)")


class Numbers(click.ParamType["tuple[float, ...]"]):
    """``0.75,1,1.25``."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers, or a refusal."""
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} are no numbers, such as 0.75,1,1.25")


_OPTIONS = (
    click.option(
        "--tiling",
        help="Cut pictures into tiles: exact, measured, blend, or auto for the best that is not "
        "too dear. Large and georeferenced pictures are cut (auto) without it.",
    ),
    click.option(
        "--tile", type=int, default=1024, show_default=True, help="Largest side of a tile."
    ),
    click.option(
        "--overlap", type=float, default=0.25, show_default=True, help="Of blended tiles, a share."
    ),
    click.option(
        "--tolerance",
        type=float,
        default=1e-3,
        show_default=True,
        help="Of measured tiles: largest difference of logits, relative to the largest logit.",
    ),
    click.option(
        "--rows",
        type=Part(),
        metavar="PART/PARTS",
        help="Do a part of each picture, such as 3/8: for 8 processes that share the folder.",
    ),
    click.option(
        "--write",
        default="classes",
        show_default=True,
        help="classes, probabilities (float16) or logits.",
    ),
    click.option(
        "--nodata", type=float, help="Value of unknown pixels, instead of what the file says."
    ),
    click.option(
        "--min-confidence",
        type=float,
        metavar="P",
        help="Void (255) where no class is that probable: masks to train the next model on.",
    ),
    click.option(
        "--tta",
        default="none",
        show_default=True,
        help="Views to average: none, mirror, flips or dihedral (quarter turns too).",
    ),
    click.option(
        "--scales", type=Numbers(), default="1", show_default=True, help="Sizes to average."
    ),
)


def tiling_options(command: Command) -> Command:
    """``--tiling`` and what goes with it."""
    return with_options(command, _OPTIONS)


def asks_for_tiles(options: dict[str, Any]) -> bool:
    """Whether an option that was given needs every picture to go through tiles."""
    return (
        options["tiling"] is not None
        or options["rows"] is not None
        or options["write"] != "classes"
        or options["tta"] != "none"
        or options["scales"] != (1.0,)
        or options["nodata"] is not None
    )
