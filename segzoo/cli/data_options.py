"""Options of the commands that read pictures with masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..checks import shown
from ..files.local import is_file
from .in_options import speaks_options
from .output import Command, with_options
from .paths import GivenPath
from .reading import bands_option, whole_number

if TYPE_CHECKING:
    from ..data.splits import DataSplits


def _classes(context: click.Context, option: click.Parameter, value: str | None) -> object:
    """``3``, ``sky,road,car``, or a file of names."""
    if value is None:
        return None
    if "," in value and not is_file(value):  # many names are too long for a file's
        return [name.strip() for name in value.split(",")]
    number = whole_number(value)
    return value if number is None else number


def _label_map(context: click.Context, option: click.Parameter, value: str | None) -> object:
    """``255=1,7=void``: old values and their classes; void is no class."""
    if value is None:
        return None
    result: dict[str, int | str | None] = {}
    for part in value.split(","):
        old, equals, new = (text.strip() for text in part.partition("="))
        if not equals or not old or not new:
            raise click.BadParameter(f"{part!r} is no old=new; give 255=1 or 0=void,1=0.")
        if old in result:
            raise click.BadParameter(f"{old!r} is there twice.")
        number = whole_number(new.removeprefix("-"))
        result[old] = int(new) if number is not None else None if new == "void" else new
    return result


def _tile(context: click.Context, option: click.Parameter, value: str | None) -> object:
    """``512``, or height and width as ``480x640``."""
    if value is None:
        return None
    sides = [whole_number(side) for side in value.lower().split("x")]
    if None in sides or len(sides) > 2:
        raise click.BadParameter(f"{shown(value)} is no size: give 512, or 480x640.")
    return sides[0], sides[-1]


def _part(context: click.Context, option: click.Parameter, value: str | None) -> object:
    """``0.2``, a share, or a file with names."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


_CLASSES = click.option(
    "--classes", callback=_classes, help="Their number, names (sky,road) or a file of names."
)
#: How files are read, in the order of ``--help``.
_READING = (
    click.option("--mask-suffix", default="", help="End of the masks' names: _mask."),
    click.option("--palette", help="File with the colour of each class, for coloured masks."),
    click.option(
        "--label-map", callback=_label_map, help="Old values and their classes: 255=1,7=void."
    ),
    click.option("--ignore-index", type=int, help="Value of pixels that nobody labelled: 255."),
    bands_option,
    click.option(
        "--range",
        "value_range",
        nargs=2,
        type=float,
        metavar="LOW HIGH",
        help="Values that become 0 and 1, where the files do not tell.",
    ),
)
_SPLITTING = (
    click.option("--tile", callback=_tile, help="Cut pictures that are larger: 512, or 480x640."),
    click.option(
        "--val", callback=_part, help="Share kept apart (0.2), or a file with names; 0.2 if left."
    ),
    click.option("--test", callback=_part, help="The same for a last score; none if left."),
    click.option("--group", help="Regular expression for what pictures belong to: ^[^_]+."),
)


#: For commands that look at data before anything is trained on them.
strict_option = click.option("--strict", is_flag=True, help="Let warnings stop, as errors do.")


def data_options(command: Command) -> Command:
    """``IMAGES [MASKS]`` and what says how they are read, for :func:`open_given_data`."""
    return _with(command, (_READING[0], _CLASSES, *_READING[1:], *_SPLITTING))


def pair_options(command: Command) -> Command:
    """``IMAGES [MASKS]`` and what says how they are read, where the model knows the classes."""
    return _with(command, _READING)


def _with(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    arguments = (
        click.argument("images", type=GivenPath()),
        click.argument("masks", required=False, type=GivenPath()),
    )
    told: Any = speaks_options(command)
    taking: Command = with_options(told, (*arguments, *options))
    return taking


def open_given_data(*, seed: int, progress: bool, **given: Any) -> DataSplits:
    """The data that a command was given by :func:`data_options`."""
    from ..data.open_data import open_data

    images = given.pop("images")
    masks = given.pop("masks")
    return open_data(images, masks, seed=seed, progress=progress, **given)
