"""The one face of a picture file, whatever reads it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

#: The values of a window, ``(bands, rows, columns)``.
Values: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class ControlPoint:
    """A place in a picture, and where it lies on the ground.

    Args:
        row: In pixels, from the top; the corner of the first pixel is 0.
        column: Likewise, from the left.
        x: In the coordinate system of the picture's georeference.
        y: Likewise.
        z: Height, in that system's unit.
    """

    row: float
    column: float
    x: float
    y: float
    z: float = 0.0


@dataclass(frozen=True)
class Georeference:
    """Where on the ground a raster lies.

    Args:
        crs: Coordinate reference system as WKT, or None where the file names none.
        transform: ``(a, b, c, d, e, f)``: the corner of the pixel at a column and a row lies at
            ``x = a * column + b * row + c``, ``y = d * column + e * row + f``.
        points: Ground control points, of a picture whose place is told by these alone.
        rpcs: Rational polynomial coefficients of a satellite's camera, by GDAL's names.
    """

    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    points: tuple[ControlPoint, ...] = ()
    rpcs: Mapping[str, str] | None = None


@dataclass(frozen=True)
class RasterInfo:
    """What is known of a raster before any of its values is decoded.

    Args:
        path: Its file, or a name for messages.
        height: Rows.
        width: Columns.
        bands: Values of each pixel.
        dtype: Type of the values, as NumPy's.
        bits: Bits that a value has in the file; 12 where 12 bits are kept in 16.
        alpha: Whether the last band is opacity.
        nodata: The value of pixels that are not known, or None; as they are read.
        georeference: Where it lies on the ground, or None.
        block: Rows and columns that the file stores together.
        inverted: Whether values are read the other way round than they are stored: white is zero.
    """

    path: Path
    height: int
    width: int
    bands: int
    dtype: np.dtype[Any]
    bits: int
    alpha: bool = False
    nodata: float | None = None
    georeference: Georeference | None = None
    block: tuple[int, int] = (1, 0)
    inverted: bool = False

    def white_is_zero(self) -> RasterInfo:
        """The same of values that are to be inverted."""
        turned = replace(self, inverted=True)
        return (
            turned if self.nodata is None else replace(turned, nodata=turned.as_read(self.nodata))
        )

    def as_read(self, stored: float) -> float:
        """What a value of the file is once it is read."""
        return 2**self.bits - 1 - stored if self.inverted else stored

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The values that stand for black and white, where the type alone tells: unsigned ones."""
        return (0.0, float(2**self.bits - 1)) if self.dtype.kind in "ub" else None


class Raster(ABC):
    """A picture file that is open: its facts, and its values window by window.

    It is closed by :meth:`close`, or at the end of a ``with`` block. One thread at a time.

    Attributes:
        info: What is known of it.
    """

    info: RasterInfo

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(bands, height, width)``."""
        return self.info.bands, self.info.height, self.info.width

    def read(self, rows: slice = slice(None), columns: slice = slice(None)) -> Values:
        """The values of a window.

        Args:
            rows: ``slice(first, end)``, within the raster.
            columns: Likewise.

        Returns:
            ``(bands, rows, columns)``, of the type ``info.dtype``, in the machine's byte order.

        Raises:
            InputError: The window lies outside, or the file cannot be decoded there.
        """
        top, bottom = self._within("rows", rows, self.info.height)
        left, right = self._within("columns", columns, self.info.width)
        try:
            values = self._read(top, bottom, left, right)
        except InputError:
            raise
        except Exception as error:  # decoders fail in many ways on a damaged file
            raise unreadable(self.info.path, error) from error
        expected = (self.info.bands, bottom - top, right - left)
        if values.shape != expected:
            raise InputError(
                f"{self.info.path} gave values of the shape {values.shape} where its header says "
                f"{expected}: it is damaged, or was changed while it was read."
            )
        return values.astype(self.info.dtype, copy=False)

    def valid(self, rows: slice = slice(None), columns: slice = slice(None)) -> Values | None:
        """Which pixels of a window are known, ``(rows, columns)`` of bool; None where all are."""
        if self.info.nodata is None:
            return None
        values = self.read(rows, columns)
        missing = np.isnan(values) if np.isnan(self.info.nodata) else values == self.info.nodata
        return np.asarray(~missing.all(axis=0))

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def _read(self, top: int, bottom: int, left: int, right: int) -> Values:
        """``(bands, bottom - top, right - left)``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _within(self, name: str, wanted: slice, size: int) -> tuple[int, int]:
        start = 0 if wanted.start is None else wanted.start
        stop = size if wanted.stop is None else wanted.stop
        if wanted.step not in (None, 1) or not 0 <= start < stop <= size:
            raise InputError(
                f"{self.info.path} has {size} {name}; {start} to {stop} cannot be read from it."
            )
        return start, stop


class WholeRaster(Raster):
    """A file that can only be decoded as a whole; that is done once, when it is first read.

    Args:
        info: What its header says.
        load: Gives all values, ``(bands, height, width)``.
        file: Closed with the raster.
    """

    def __init__(
        self, info: RasterInfo, load: Callable[[], Values], file: BinaryIO | None = None
    ) -> None:
        self.info = info
        self._load, self._file = load, file
        self._values: Values | None = None

    def _read(self, top: int, bottom: int, left: int, right: int) -> Values:
        if self._values is None:
            self._values = native(self._load())
        if self._values.shape != self.shape:
            return self._values  # told as damaged
        return self._values[:, top:bottom, left:right]

    def close(self) -> None:
        """Forget the values, and close the file."""
        self._values = None
        if self._file is not None:
            self._file.close()


def native(values: Values) -> Values:
    """In the machine's byte order: torch takes no other."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def turned(values: Values, orientation: int) -> Values:
    """Values ``(C, H, W)`` upright, given the EXIF (and TIFF) orientation 1 to 8."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        values = values[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def unreadable(path: Path, error: Exception) -> InputError:
    """A decoder's complaint, in our words."""
    reason = str(error).rstrip(".") or type(error).__name__
    return InputError(f"{path} cannot be read as a picture: {reason}.")
