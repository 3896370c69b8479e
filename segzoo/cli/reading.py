"""Options on how pictures are read, for commands that read them."""

from __future__ import annotations

from typing import Any

import click

from .output import Command, with_options


def whole_number(text: str) -> int | None:
    """The number of a text that is digits alone; None for another one, and for endless digits."""
    return int(text) if text.isdecimal() and len(text) < 20 else None


class BandNumbers(click.ParamType["tuple[int, ...]"]):
    """``4,3,2``: numbers of bands, counted from 1."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers, or a refusal."""
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"{value!r} are no numbers of bands, such as 4,3,2 (the first is 1)")
        return numbers


bands_option = click.option(
    "--bands", type=BandNumbers(), help="Bands to use, such as 4,3,2; the first is 1."
)
range_option = click.option(
    "--range",
    "value_range",
    nargs=2,
    type=float,
    metavar="LOW HIGH",
    help="Values that are black and white, for types that do not tell (signed, float).",
)
_MAX_PIXELS = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    help="Largest picture that is decoded as a whole; 16384x16384 unless given.",
)


def reading_options(command: Command) -> Command:
    """``--bands``, ``--range`` and ``--max-pixels``."""
    return with_options(command, (bands_option, range_option, _MAX_PIXELS))
