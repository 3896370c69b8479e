"""TIFF files of any bands and depth, by tifffile; compressed ones need imagecodecs."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import InputError
from ...packages import load_package
from .face import Raster, RasterInfo, Values, WholeRaster, native, turned
from .tiff_tags import TiffPage

#: Bytes of decoded segments that are kept, because the next window often needs them again.
_KEPT = 64 << 20


def open_tiff(file: BinaryIO, path: Path, page: TiffPage, *, raw: bool) -> Raster:
    """Open one page of a TIFF file.

    Args:
        file: The open file; closed with the raster.
        path: Its path, for messages.
        page: The page, as its tags describe it.
        raw: Leave values as they are stored: white may be zero. A mask is turned upright all the
            same, as its picture is.

    Raises:
        InputError: The values are of a kind that is no picture, or the file is cut.
        MissingPackageError: tifffile is not installed.
    """
    stored = _StoredTiff(file, path, page)
    inverted = page.photometric == 0 and not raw
    if page.orientation in (0, 1) and not inverted:
        return stored
    info = stored.info
    if page.orientation in (5, 6, 7, 8):
        info = replace(info, height=info.width, width=info.height)
    info = replace(info, block=(info.height, info.width))  # which is decoded at once
    if inverted and info.dtype.kind == "u":
        info = info.white_is_zero()

    def load() -> Values:
        with stored:
            values = stored.read()
        if info.inverted:
            values = np.asarray(2**info.bits - 1 - values, dtype=values.dtype)
        return turned(values, page.orientation)

    return WholeRaster(info, load)


class _StoredTiff(Raster):
    """The values as the file has them, by its segments (strips or tiles)."""

    def __init__(self, file: BinaryIO, path: Path, page: TiffPage) -> None:
        tifffile: Any = load_package("tifffile", extra="tiff")
        file.seek(0)
        self._source, self._file = file, tifffile.TiffFile(file)
        try:
            self._page = self._file.pages[page.index]
            self._planes = page.samples if self._page.planarconfig == 2 else 1
            self.info = self._described(path, page)
            self._check_length(path)
        except BaseException:
            self._file.close()
            raise
        if self._page.is_final:  # nothing has to be decoded, so no part is read as a whole
            self.info = replace(self.info, block=(1, self.info.width))
        self._segments: OrderedDict[int, tuple[Any, tuple[int, ...]]] = OrderedDict()

    def _described(self, path: Path, page: TiffPage) -> RasterInfo:
        found = self._page
        if found.dtype is None or found.dtype.kind not in "uifb" or found.imagedepth != 1:
            raise InputError(f"{path} holds {page}; expected a picture of whole or real numbers.")
        if page.bits[0] > found.dtype.itemsize * 8:  # the tags were damaged, and tifffile guessed
            raise InputError(f"{path} holds {page}; no value has so many bits.")
        rows = found.tilelength if found.is_tiled else min(found.rowsperstrip, page.height)
        return RasterInfo(
            path=path,
            height=page.height,
            width=page.width,
            bands=page.samples,
            dtype=np.dtype(np.uint8) if found.dtype.kind == "b" else found.dtype.newbyteorder("="),
            bits=page.bits[0],
            alpha=page.alpha,
            nodata=page.unknown,
            block=(rows, found.tilewidth if found.is_tiled else page.width),
        )

    def _plain(self, top: int, bottom: int, left: int, right: int) -> Values:
        """Of values that lie in the file as they are: no strip, however large, has to be decoded.

        They are read, not mapped: of a file that is cut meanwhile, mapped pages end the program.
        """
        _, height, width = self.shape
        samples = self.info.bands // self._planes
        kind = self._page.dtype.newbyteorder(self._file.byteorder)
        out = np.empty((self._planes, bottom - top, right - left, samples), kind)
        for plane in range(self._planes):
            first = (plane * height + top) * width
            if right - left == width:
                self._fill(out[plane], first * samples)
                continue
            for row in range(bottom - top):
                self._fill(out[plane, row], (first + row * width + left) * samples)
        return native(out.transpose(0, 3, 1, 2).reshape(self.info.bands, *out.shape[1:3]))

    def _fill(self, out: Values, place: int) -> None:
        """Read values that lie one after the other, beginning with the one at a place."""
        source = self._file.filehandle
        source.seek(self._page.dataoffsets[0] + place * out.itemsize)
        data = source.read(out.nbytes)
        if len(data) != out.nbytes:
            raise EOFError("the file was cut while it was read")
        out[...] = np.frombuffer(data, out.dtype).reshape(out.shape)

    def _check_length(self, path: Path) -> None:
        length = self._source.seek(0, os.SEEK_END)
        ends = zip(self._page.dataoffsets, self._page.databytecounts, strict=False)
        if any(offset + count > length for offset, count in ends):
            raise InputError(f"{path} cannot be read as a picture: the end of the file is missing.")

    def _read(self, top: int, bottom: int, left: int, right: int) -> Values:
        if self._page.is_final:
            return self._plain(top, bottom, left, right)
        tall, wide = self.info.block
        across = math.ceil(self.info.width / wide)
        down = math.ceil(self.info.height / tall)
        out = np.zeros((self.info.bands, bottom - top, right - left), self.info.dtype)
        for y in range(top // tall, math.ceil(bottom / tall)):
            for x in range(left // wide, math.ceil(right / wide)):
                for plane in range(self._planes):
                    segment, place = self._segment((plane * down + y) * across + x)
                    if segment is None:  # left out of the file: nothing is known here
                        rows, columns = _overlap((y * tall, x * wide), (tall, wide), out, top, left)
                        out[:, rows, columns] = self.info.nodata or 0
                        continue
                    self._copy(segment, place, out, top, left)
        return out

    def _copy(self, segment: Any, place: tuple[int, ...], out: Values, top: int, left: int) -> None:
        sample, _, y, x, _ = place
        values = segment[0].transpose(2, 0, 1)  # depth is 1; samples first
        bands = slice(sample, sample + values.shape[0])
        rows, columns = _overlap((y, x), values.shape[1:], out, top, left)
        first_row, first_column = rows.start + top - y, columns.start + left - x
        out[bands, rows, columns] = native(values)[
            :,
            first_row : first_row + rows.stop - rows.start,
            first_column : first_column + columns.stop - columns.start,
        ]

    def _segment(self, index: int) -> tuple[Any, tuple[int, ...]]:
        if index in self._segments:
            self._segments.move_to_end(index)
            return self._segments[index]
        count = self._page.databytecounts[index]
        data = None
        if count:
            handle = self._file.filehandle
            handle.seek(self._page.dataoffsets[index])
            data = handle.read(count)
            if len(data) < count:
                raise InputError(
                    f"{self.info.path} ends where values should be: it was changed while it was "
                    "read, or is damaged."
                )
        tables = {"jpegtables": self._page.jpegtables} if self._page.jpegtables else {}
        segment, place, _ = self._page.decode(data, index, **tables)
        self._segments[index] = segment, place
        while (
            len(self._segments) > 1
            and sum(item.nbytes for item, _ in self._segments.values() if item is not None) > _KEPT
        ):
            self._segments.popitem(last=False)
        return segment, place

    def close(self) -> None:
        """Close the file."""
        self._segments.clear()
        self._file.close()
        self._source.close()


def _overlap(
    corner: tuple[int, int], size: tuple[int, ...], out: Values, top: int, left: int
) -> tuple[slice, slice]:
    """Where a segment at ``corner`` lies in ``out``, whose own corner is ``(top, left)``."""
    spans = []
    for begin, length, origin, end in zip(corner, size, (top, left), out.shape[1:], strict=True):
        spans.append(slice(max(begin - origin, 0), min(begin + length - origin, end)))
    return spans[0], spans[1]
