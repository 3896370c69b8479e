"""From the values of a file to those that a model takes: which bands, what is black and white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import ArgumentError, InputError
from .readers.face import Raster, RasterInfo, Values

#: Types that a model's normalisation scales by itself, with the bits of their full range.
_SCALED = {"uint8": 8, "uint16": 16}

ValueRange = tuple[float, float]


def check_range(value_range: Sequence[float] | None) -> ValueRange | None:
    """``(low, high)`` as two finite numbers with low < high, or None.

    Raises:
        ArgumentError: Anything else.
    """
    if value_range is None:
        return None
    bounds = checks.sequence(
        "value_range",
        value_range,
        lambda name, value: checks.number(name, value, minimum=-1e30, maximum=1e30),
        longest=2,
    )
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise ArgumentError(
            f"value_range must be (low, high) with low < high, got {checks.shown(value_range)}."
        )
    return bounds[0], bounds[1]


def check_band_numbers(bands: Sequence[int] | None) -> tuple[int, ...] | None:
    """Numbers of bands, counted from 1, or None.

    Raises:
        ArgumentError: Anything else.
    """
    if bands is None:
        return None
    numbers = checks.sequence(
        "bands", bands, lambda name, value: checks.integer(name, value, minimum=1, maximum=65535)
    )
    if not numbers:
        raise ArgumentError("bands must have at least one number.")
    return numbers


def choose_bands(info: RasterInfo, bands: Sequence[int] | None, wanted: int) -> tuple[int, ...]:
    """Which bands of a raster a model gets, counted from 1.

    Without ``bands`` an opacity band is left out where the model has none for it, and grey is
    repeated for three bands.

    Args:
        info: The raster.
        bands: What a person chose, or None.
        wanted: Bands that the model takes.

    Raises:
        InputError: The numbers do not fit; the message has them.
    """
    given = info.bands
    if bands is not None:
        absent = [number for number in bands if number > given]
        if absent:
            raise InputError(f"{info.path} has {given} bands; there is no band {absent[0]}.")
        if len(bands) != wanted:
            raise InputError(
                f"{len(bands)} bands were chosen of {info.path}, and the model takes {wanted}."
            )
        return tuple(bands)
    if given == wanted:
        return tuple(range(1, given + 1))
    if info.alpha and given - 1 == wanted:
        return tuple(range(1, given))
    if wanted == 3 and given - info.alpha == 1:
        return (1, 1, 1)
    raise InputError(
        f"{info.path}: The picture has {given} bands and the model takes {wanted}; nothing tells "
        f"which is which. Choose {wanted} of them: bands=(1, ...), --bands 1,..."
    )


def as_pixels(values: Values, info: RasterInfo, value_range: ValueRange | None = None) -> Tensor:
    """Values as a model's ``predict`` takes them.

    Args:
        values: ``(C, H, W)``, of a raster.
        info: That raster.
        value_range: The values that become 0 and 1; values beyond are not cut. None where the type
            tells it: unsigned values of up to 16 bits.

    Returns:
        ``(C, H, W)``: uint8 and uint16 of full range as they are, else float32 in 0..1.

    Raises:
        InputError: The type does not tell what black and white are.
    """
    known = info.value_range if values.dtype.name in _SCALED else None
    if value_range is None and known is not None and _SCALED[values.dtype.name] == info.bits:
        return torch.from_numpy(np.ascontiguousarray(values))
    bounds = value_range or known
    if bounds is None:
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        extent = f" from {finite.min()} to {finite.max()}" if finite.size else ""
        hint = ""
        if values.dtype.name in ("int32", "uint32") and values.min() >= 0 and values.max() <= 65535:
            # Of a whole picture that is taken for granted; these may be those of a window.
            hint = (
                " Values of 16 bits in a file of 32 have value_range=(0, 65535), --range 0 65535."
            )
        raise InputError(
            f"{info.path} has {values.dtype} values{extent}; nothing tells which are black and "
            f"white. Say it as in training: value_range=(LOW, HIGH), --range LOW HIGH.{hint}"
        )
    low, high = bounds
    precise = np.float32 if values.dtype.itemsize <= 2 else np.float64
    scaled = (values.astype(precise) - precise(low)) / precise(high - low)
    return torch.from_numpy(scaled.astype(np.float32))


def read_pixels(
    raster: Raster,
    bands: Sequence[int],
    value_range: ValueRange | None = None,
    *,
    rows: slice = slice(None),
    columns: slice = slice(None),
    known: Values | None = None,
) -> Tensor:
    """All pixels of a raster's chosen bands, or those of a window, see :func:`as_pixels`.

    Args:
        raster: It is left open.
        bands: Their numbers, counted from 1.
        value_range: See :func:`as_pixels`.
        rows: Of the window.
        columns: Of the window.
        known: ``(H, W)`` of bool; pixels that are not known become 0: black, whatever the range.
            None where all are.

    Raises:
        InputError: They cannot be read, or some are no numbers.
    """
    info, values = raster.info, raster.read(rows, columns)
    if tuple(bands) != tuple(range(1, info.bands + 1)):
        values = values[[number - 1 for number in bands]]
    if known is not None:  # so that -9999 says nothing of the others
        values = np.where(known, values, np.zeros((), dtype=values.dtype))
    if values.dtype.name in ("int32", "uint32") and values.min() >= 0 and values.max() <= 65535:
        values = values.astype(np.uint16)  # values of 16 bits, in a file of 32
        info = replace(info, dtype=values.dtype, bits=16)
    pixels = as_pixels(values, info, value_range)
    if pixels.is_floating_point():
        if known is not None:
            pixels = pixels.masked_fill(~torch.from_numpy(known), 0.0)
        bad = int((~torch.isfinite(pixels)).any(dim=0).sum())
        if bad:
            raise InputError(
                f"{raster.info.path} has {bad:,} pixels that are not finite numbers; a model gives "
                "no class for them. Fill them, or use tiles with nodata."
            )
    return pixels
