"""TIFF files of any size, written band by band into whole blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.readers.face import Georeference, Values
from ...data.readers.with_rasterio import gdal
from ...errors import StorageError
from ...packages import load_package

#: Side of a block. Bands are cut to its rows first: a block that is written twice stays in a
#: compressed file twice.
BLOCK = 256
#: The smallest side that gets a coarser overview.
_OVERVIEW = 256

Planes = Iterable[tuple[int, Values]]


def in_blocks(bands: Planes) -> Iterator[tuple[int, Values]]:
    """The same rows ``(C, h, W)``, in pieces that begin at multiples of :data:`BLOCK`."""
    held: list[Values] = []
    top = 0
    for _, values in bands:
        held.append(values)
        rows = sum(part.shape[1] for part in held)
        whole = rows // BLOCK * BLOCK
        if whole:
            joined = np.concatenate(held, axis=1)
            yield top, joined[:, :whole]
            held, top = [joined[:, whole:]], top + whole
    rest = np.concatenate(held, axis=1)
    if rest.shape[1]:
        yield top, rest


def write_geotiff(
    path: Path,
    bands: Planes,
    shape: tuple[int, int, int],
    dtype: str,
    *,
    georeference: Georeference,
    nodata: float,
    colors: NDArray[np.uint8] | None,
    class_names: Sequence[str] | None,
    labels: Sequence[str],
    by_mode: bool,
) -> None:
    """Write a GeoTIFF with overviews.

    Args:
        path: The file, replaced if it is there.
        bands: Rows from top to bottom, ``(C, h, W)`` each.
        shape: ``(C, H, W)``.
        dtype: NumPy's name of the values' type; float16 is written as float32, for GDAL.
        georeference: Where it lies.
        nodata: The value of unknown pixels.
        colors: The palette ``(classes, 3)``, or None.
        class_names: Kept in the tags ``class_0``, ``class_1``, ...
        labels: The descriptions of the bands.
        by_mode: Whether overviews take the most frequent value, not the average.

    Raises:
        MissingPackageError: rasterio is not installed.
        StorageError: GDAL could not write it.
    """
    count, height, width = shape
    dtype = "float32" if dtype == "float16" else dtype  # GDAL 3.10 has no half precision
    with gdal() as rasterio:
        try:
            with rasterio.open(
                path,
                "w",
                driver="GTiff",
                count=count,
                height=height,
                width=width,
                dtype=dtype,
                nodata=nodata,
                crs=georeference.crs,
                **_place(rasterio, georeference),
                tiled=True,
                blockxsize=BLOCK,
                blockysize=BLOCK,
                interleave="band",
                compress="deflate",
                BIGTIFF="IF_SAFER",
            ) as file:
                for top, values in in_blocks(bands):
                    window = ((top, top + values.shape[1]), (0, width))
                    file.write(values.astype(dtype, copy=False), window=window)
                file.descriptions = tuple(labels)
                if colors is not None:
                    file.write_colormap(1, {i: tuple(map(int, c)) for i, c in enumerate(colors)})
                if class_names:
                    names = {f"class_{i}": name for i, name in enumerate(class_names)}
                    file.update_tags(1, **names)
            factors = [2**i for i in range(1, 16) if max(height, width) >> i >= _OVERVIEW]
            if factors:
                way = (
                    rasterio.enums.Resampling.mode if by_mode else rasterio.enums.Resampling.average
                )
                with (
                    rasterio.Env(COMPRESS_OVERVIEW="DEFLATE", BIGTIFF_OVERVIEW="IF_SAFER"),
                    rasterio.open(path, "r+", driver="GTiff") as file,
                ):
                    file.build_overviews(factors, way)
        except rasterio.errors.RasterioError as error:
            raise StorageError(f"{path} could not be written: {error}.") from error


def _place(rasterio: Any, georeference: Georeference) -> dict[str, Any]:
    """Where a file lies, besides its coordinate system, as rasterio's options."""
    place: dict[str, Any] = {}
    if georeference.points:
        point = load_package("rasterio.control", extra="geo").GroundControlPoint
        place["gcps"] = [point(p.row, p.column, p.x, p.y, p.z) for p in georeference.points]
    elif georeference.transform != (1, 0, 0, 0, 1, 0):  # which stands for none
        place["transform"] = rasterio.Affine(*georeference.transform)
    if georeference.rpcs is not None:
        rpc = load_package("rasterio.rpc", extra="geo").RPC
        place["rpcs"] = rpc.from_gdal(dict(georeference.rpcs))
    return place


def write_plain_tiff(
    path: Path,
    bands: Planes,
    shape: tuple[int, int, int],
    dtype: str,
    *,
    colors: NDArray[np.uint8] | None,
) -> None:
    """Write a TIFF that lies nowhere on the ground.

    Args:
        path: The file, replaced if it is there.
        bands: Rows from top to bottom, ``(C, h, W)`` each.
        shape: ``(C, H, W)``.
        dtype: NumPy's name of the values' type.
        colors: The palette ``(classes, 3)``, or None.

    Raises:
        MissingPackageError: tifffile is not installed.
    """
    tifffile = load_package("tifffile", extra="tiff")
    count, height, width = shape
    palette = None
    if colors is not None:
        palette = np.zeros((3, 256), np.uint16)
        palette[:, : len(colors)] = colors.T.astype(np.uint16) * 257

    def tiles() -> Iterator[Values]:
        for _, values in in_blocks(bands):
            for y in range(0, values.shape[1], BLOCK):
                for x in range(0, width, BLOCK):
                    yield np.ascontiguousarray(
                        values[:, y : y + BLOCK, x : x + BLOCK].transpose(1, 2, 0)
                        if count > 1
                        else values[0, y : y + BLOCK, x : x + BLOCK]
                    )

    tifffile.imwrite(
        path,
        tiles(),
        shape=(height, width, count) if count > 1 else (height, width),
        dtype=dtype,
        photometric="minisblack" if palette is None else "palette",
        colormap=palette,
        planarconfig="contig" if count > 1 else None,
        tile=(BLOCK, BLOCK),
        compression="zlib",
        bigtiff=count * height * width * np.dtype(dtype).itemsize > 2**31,
        metadata=None,
    )
