"""How many bands a picture file has, from its header where that tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .. import checks
from ..errors import ArgumentError, DataError, InputError
from .pairs import Pair
from .pictures import read_picture

MAX_BANDS = 4096
#: Files whose header is read, spread evenly.
_LOOKED_AT = 64
_SAMPLES_PER_PIXEL, _EXTRA_SAMPLES = 277, 338
_ALPHA = (1, 2)


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
    """Bands of a file without alpha.

    Raises:
        InputError: A file that cannot be read.
    """
    try:
        with Image.open(path) as image:
            tags = getattr(image, "tag_v2", None)
            if tags is not None:
                bands = int(tags.get(_SAMPLES_PER_PIXEL, 1))
                extra = tags.get(_EXTRA_SAMPLES, ())
                if image.mode != "P" and image.mode != "CMYK":
                    return bands - sum(value in _ALPHA for value in extra)
            if image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;"):
                return 1
            return 3
    except Exception:  # not one of Pillow's: its own reader knows
        picture = read_picture(path)
        if 0 in picture.shape:
            raise DataError(f"{path} holds no pixel.") from None
        return picture.shape[0]


def _band(name: str, value: object) -> int:
    return checks.integer(name, value, minimum=1, maximum=MAX_BANDS)
