"""Pictures that are too large to be learned from as a whole, cut into tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import ArgumentError, DataError
from .pairs import Pair, Window
from .pixel_values import ValueRange, read_pixels
from .raster import Raster, open_raster

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_SIDE = 65536


def check_tile(tile: Any) -> tuple[int, int] | None:
    """``(height, width)``, from one number or two, or None.

    Raises:
        ArgumentError: Anything else.
    """
    if tile is None:
        return None
    sides = checks.sequence("tile", (tile, tile) if isinstance(tile, int) else tile, _side)
    if len(sides) != 2:
        raise ArgumentError(f"tile must be a side or (height, width), got {checks.shown(tile)}.")
    return sides[0], sides[1]


def cut_into_tiles(pairs: Iterable[Pair], tile: tuple[int, int] | None) -> tuple[Pair, ...]:
    """Each picture that is larger than a tile as several pairs; they touch and do not overlap.

    Tiles of a picture are as even as can be: of 1100 rows and a height of 512 there are three, of
    366 or 367, so that none is a sliver. A picture whose mask has another size is left whole; what
    reads it will tell.

    Raises:
        InputError: A picture that cannot be read.
        DataError: A tile would have the name of another picture.
    """
    if tile is None:
        return tuple(pairs)
    found: dict[str, Pair] = {}
    for pair in pairs:
        with open_raster(pair.image) as raster, open_raster(pair.mask, raw=True) as mask:
            size, same = raster.shape[1:], raster.shape[1:] == mask.shape[1:]
        for one in _tiles(pair, size, tile) if same else [pair]:
            if one.name in found:
                raise DataError(f"{one.name} is a tile and a picture; rename {pair.image.name}.")
            found[one.name] = one
    return tuple(found.values())


def _tiles(pair: Pair, size: tuple[int, int], tile: tuple[int, int]) -> Iterable[Pair]:
    if size[0] <= tile[0] and size[1] <= tile[1]:
        return [pair]
    rows, columns = (_borders(side, part) for side, part in zip(size, tile, strict=True))
    return [
        replace(
            pair,
            name=f"{pair.name}_r{top}_c{left}",
            window=Window(top, bottom, left, right),
            picture=pair.name,
        )
        for top, bottom in rows
        for left, right in columns
    ]


def _borders(side: int, part: int) -> Sequence[tuple[int, int]]:
    count = -(-side // part)
    ends = [side * index // count for index in range(count + 1)]
    return list(pairwise(ends))


def read_image(
    raster: Raster,
    window: Window | None,
    value_range: ValueRange | None,
    bands: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """A picture or a window of it, and where it is not known (the file's nodata), if anywhere.

    Returns:
        ``(C, H, W)`` of the bands, or of all where there are none, with 0 (black) where nothing is
        known, and ``(H, W)`` of bool or None.
    """
    rows, columns = slices(window)
    known: NDArray[np.bool_] | None = raster.valid(rows, columns)
    if known is not None and known.all():
        known = None
    numbers = range(1, raster.info.bands + 1) if bands is None else bands
    pixels = read_pixels(raster, numbers, value_range, rows=rows, columns=columns, known=known)
    return pixels, None if known is None else torch.from_numpy(~known)


def slices(window: Window | None) -> tuple[slice, slice]:
    """Rows and columns of a window; of all of a picture where there is none."""
    if window is None:
        return slice(None), slice(None)
    return slice(window.top, window.bottom), slice(window.left, window.right)


def _side(name: str, value: Any) -> int:
    return checks.integer(name, value, minimum=16, maximum=_MAX_SIDE)
