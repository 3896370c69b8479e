"""Georeferenced files, by rasterio (GDAL): windows, nodata, and where on the ground they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import InputError
from ...packages import load_package
from .face import ControlPoint, Georeference, Raster, RasterInfo, Values, unreadable
from .tiff_tags import TiffPage

#: MiB of decoded blocks that GDAL keeps; its own rule is a share of the machine's memory.
CACHE_MIB = 64


@contextmanager
def gdal() -> Iterator[Any]:
    """rasterio, with a cache of a fixed size, and no look at other files of the folder."""
    rasterio = load_package("rasterio", extra="geo")
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MIB, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        yield rasterio


def open_georeferenced(file: BinaryIO, path: Path, page: TiffPage, *, raw: bool) -> Raster:
    """Open a GeoTIFF.

    Args:
        file: The open file. GDAL opens files itself, so it is closed.
        path: Its path, or a name for messages of bytes.
        page: Its picture, as the file's tags describe it.
        raw: Leave palettes and inverted values as they are stored.

    Raises:
        InputError: GDAL cannot open it, or its colours are of a kind that cannot be read truly.
        MissingPackageError: rasterio is not installed.
    """
    if page.photometric not in (0, 1, 2, 3, 6) and not raw:
        raise InputError(f"{path} holds {page}; expected grey, RGB, a palette or plain bands.")
    opened = ExitStack()
    with gdal() as rasterio, opened:
        try:
            if isinstance(file, BytesIO):
                memory = opened.enter_context(rasterio.MemoryFile(file.getvalue()))
                dataset = opened.enter_context(memory.open(driver="GTiff"))
            else:
                dataset = opened.enter_context(rasterio.open(path, driver="GTiff"))
        except rasterio.errors.RasterioError as error:
            raise unreadable(path, error) from error
        if dataset.count != page.samples or dataset.dtypes[0] != _expected_type(page):
            found = f"{dataset.count} bands of {dataset.dtypes[0]}"
            raise InputError(f"{path} holds {page}, and GDAL reads {found}.")
        file.close()
        raster = DatasetRaster(dataset, page=None if raw else page, path=path)
        raster.owned = opened.pop_all()
        return raster


def _expected_type(page: TiffPage) -> str:
    """GDAL's type for what the tags say: it has none of less than 8 bits, nor any of 12."""
    name = page.type_name.rstrip("0123456789")
    bits = max(page.bits)
    return f"{name}{next((size for size in (8, 16, 32, 64) if bits <= size), bits)}"


def _place(dataset: Any) -> Georeference | None:
    """Where a dataset lies, as far as it says so."""
    points, crs = dataset.gcps
    crs = dataset.crs or crs
    if crs is None and dataset.transform.is_identity and not points and dataset.rpcs is None:
        return None
    return Georeference(
        crs.to_wkt() if crs else None,
        tuple(dataset.transform)[:6],
        tuple(ControlPoint(p.row, p.col, p.x, p.y, p.z or 0.0) for p in points),
        None if dataset.rpcs is None else dataset.rpcs.to_gdal(),
    )


class DatasetRaster(Raster):
    """An open dataset of rasterio.

    Args:
        dataset: In mode ``r``.
        page: The tags of its file, where colours are to be made of what is stored.
        path: Its file, or a name for messages; None for the dataset's own name.

    Attributes:
        owned: What is closed with the raster. A dataset that came open stays open.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        page: TiffPage | None = None,
        path: Path | None = None,
    ) -> None:
        self._dataset, self.owned = dataset, ExitStack()
        self._palette: Values | None = None
        kinds = set(dataset.dtypes)
        if len(kinds) > 1 or np.dtype(dataset.dtypes[0]).kind not in "uif":
            raise InputError(
                f"{dataset.name} has bands of {', '.join(sorted(kinds))}; expected whole or real "
                "numbers of one type."
            )
        dtype = np.dtype(dataset.dtypes[0])
        bits = max(page.bits) if page is not None else dtype.itemsize * 8
        colors = [item.name for item in dataset.colorinterp]
        bands = dataset.count
        if page is not None and page.photometric == 3:
            table = dataset.colormap(1)
            self._palette = np.array(
                [table.get(i, (0, 0, 0, 255))[:3] for i in range(2**bits)], np.uint8
            ).T
            bands, dtype, bits = 3, np.dtype(np.uint8), 8
        self.info = RasterInfo(
            path=path or Path(dataset.name),
            height=dataset.height,
            width=dataset.width,
            bands=bands,
            dtype=dtype,
            bits=bits,
            alpha=self._palette is None and colors[-1] == "alpha",
            nodata=dataset.nodata,
            georeference=_place(dataset),
            block=tuple(dataset.block_shapes[0]),
        )
        if page is not None and page.photometric == 0 and dtype.kind == "u":
            self.info = self.info.white_is_zero()
        flags = {flag.name for masks in dataset.mask_flag_enums for flag in masks}
        self._masked = flags != {"all_valid"}

    def _read(self, top: int, bottom: int, left: int, right: int) -> Values:
        window = ((top, bottom), (left, right))
        with gdal():
            values: Values = self._dataset.read(window=window)
        if self._palette is not None:
            return self._palette[:, values[0]]
        if self.info.inverted:
            values = np.asarray(2**self.info.bits - 1 - values, dtype=values.dtype)
        return values

    def valid(self, rows: slice = slice(None), columns: slice = slice(None)) -> Values | None:
        """Which pixels of a window are known: by nodata, alpha or a mask in the file."""
        if not self._masked:
            return None
        window = (
            self._within("rows", rows, self.info.height),
            self._within("columns", columns, self.info.width),
        )
        try:
            with gdal():
                known: Values = self._dataset.dataset_mask(window=window) > 0
        except Exception as error:  # as in read
            raise unreadable(self.info.path, error) from error
        return known

    def close(self) -> None:
        """Close the dataset, if it is the raster's own."""
        self.owned.close()
