"""Which bands of pictures are taken, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import checks
from ..errors import ArgumentError, InputError
from .pairs import Pair
from .raster import open_raster

MAX_BANDS = 4096
#: Files whose header is read, spread evenly.
_LOOKED_AT = 64


def check_bands(bands: object) -> tuple[int, ...] | None:
    """Numbers of bands, counted from 1, or None.

    Raises:
        ArgumentError: Anything else.
    """
    if bands is None:
        return None
    if isinstance(bands, int):
        raise ArgumentError(
            f"bands={checks.shown(bands)}: give the numbers of the bands to take, counted from 1: "
            "bands=(4, 3, 2)."
        )
    numbers = checks.sequence("bands", bands, _band, longest=MAX_BANDS)
    if not numbers:
        raise ArgumentError("bands is empty; give at least one number.")
    return numbers


def most_bands(pairs: Sequence[Pair]) -> int:
    """The largest number of bands, without alpha, of 64 pictures that are spread evenly.

    So grey pictures among coloured ones become coloured. A damaged file is left to the checks.

    Raises:
        InputError: None of them can be read.
    """
    step = max(len(pairs) // _LOOKED_AT, 1)
    found, failed = [], []
    for pair in pairs[::step]:
        try:
            found.append(count_bands(pair.image))
        except InputError as error:
            failed.append(error)
    if not found:
        raise failed[0]
    return max(found)


def count_bands(path: Path) -> int:
    """Bands of a file without alpha, from its header.

    Raises:
        InputError: A file that cannot be read.
    """
    with open_raster(path) as raster:
        return raster.info.bands - raster.info.alpha


def _band(name: str, value: object) -> int:
    return checks.integer(name, value, minimum=1, maximum=MAX_BANDS)
