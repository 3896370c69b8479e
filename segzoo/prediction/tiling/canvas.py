"""The picture that tiles are cut from: windows of a raster as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.pictures import to_bands
from ...data.pixel_values import ValueRange, as_pixels, choose_bands
from ...data.readers.face import Raster, Values
from ...errors import InputError
from ..pixel_model import PixelModel
from .axis import Span


class Canvas:
    """Windows of a raster, normalised, with what is not known filled in.

    Unknown pixels (nodata) are 0 after normalisation, the mean colour, as padding is: a model then
    sees no cliff of -9999 beside the picture.

    Args:
        raster: Where pixels come from.
        model: Whom they are for.
        bands: Bands to use, counted from 1, or None.
        value_range: Values that become 0 and 1, or None.
        nodata: The value of unknown pixels, instead of what the raster says.
    """

    def __init__(
        self,
        raster: Raster,
        model: PixelModel,
        *,
        bands: Sequence[int] | None,
        value_range: ValueRange | None,
        nodata: float | None,
    ) -> None:
        self.raster, self.model = raster, model
        info, wanted = raster.info, model.source.in_channels
        self._as_grey = bands is None and wanted == 1 and info.bands - info.alpha == 3
        self.bands = (1, 2, 3) if self._as_grey else choose_bands(info, bands, wanted)
        self.range = value_range
        self.nodata = None if nodata is None else info.as_read(nodata)
        self.height, self.width = raster.info.height, raster.info.width
        #: Height and width with what is added below and on the right.
        self.padded = (self.height, self.width)

    def pad_to(self, unit: int) -> None:
        """Add zeros below and on the right, up to multiples of ``unit``."""
        self.padded = (-(-self.height // unit) * unit, -(-self.width // unit) * unit)

    def known(self, rows: slice, columns: slice) -> Values | None:
        """Which pixels of a window (of the picture, without padding) are known; None for all."""
        if self.nodata is None:
            return self.raster.valid(rows, columns)
        return np.asarray(~_equal(self.raster.read(rows, columns), self.nodata))

    def window(self, rows: Span, columns: Span) -> Tensor:
        """What a tile reads, ``(1, C, h, w)``, as the model takes it.

        Raises:
            InputError: It cannot be read, or has known pixels that are no numbers.
        """
        bottom, right = min(rows.last, self.height), min(columns.last, self.width)
        tall, wide = slice(rows.first, bottom), slice(columns.first, right)
        stored = self.raster.read(tall, wide)
        known = (
            self.raster.valid(tall, wide) if self.nodata is None else ~_equal(stored, self.nodata)
        )
        values = stored[[number - 1 for number in self.bands]]
        pixels = as_pixels(values, self.raster.info, self.range)
        image = self.model.normalized((to_bands(pixels, 1) if self._as_grey else pixels)[None])
        if known is not None and not known.all():
            image = image.masked_fill(~torch.from_numpy(known).to(image.device), 0.0)
        if not bool(torch.isfinite(image).all()):
            raise InputError(
                f"{self.raster.info.path} has values that are not finite numbers in rows "
                f"{rows.first} to {bottom}, columns {columns.first} to {right}. If they stand for "
                "pixels that are not known, say so: nodata=float('nan'), --nodata nan."
            )
        padding = (0, columns.last - right, 0, rows.last - bottom)
        return F.pad(image, padding) if any(padding) else image


def _equal(values: Values, nodata: float) -> Any:
    """Where all bands have the value."""
    found = np.isnan(values) if np.isnan(nodata) else values == nodata
    return found.all(axis=0)
