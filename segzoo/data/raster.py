"""Open a picture file of any kind: whatever reads it, its values are those that the file has.

The file's own tags decide which library is asked, and what it gives is held against them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError, SegzooError
from ..files.atomic import open_ordinary
from ..files.local import path_of
from ..packages import has_package
from .readers.face import ControlPoint as ControlPoint
from .readers.face import Georeference as Georeference
from .readers.face import Raster as Raster
from .readers.face import RasterInfo as RasterInfo
from .readers.face import Values, unreadable
from .readers.tiff_tags import SIGNATURES, TagError, TiffPage, read_pages
from .readers.with_pillow import check_pixels, open_with_pillow, opened, stated_orientation
from .readers.with_rasterio import open_georeferenced
from .readers.with_tifffile import open_tiff

#: Pixels that are decoded at once unless more are allowed: 16384 x 16384.
MAX_PIXELS = 1 << 28
#: What messages call a picture that came as bytes.
UNNAMED = Path("The file")
#: A TIFF file above this is read by windows where its kind and what is installed allow it.
_LARGE = 1 << 24
#: SampleFormat -> whether Pillow gives such values as they are.
_UNSIGNED = {1}


def open_raster(
    path: str | os.PathLike[str] | bytes, *, raw: bool = False, max_pixels: int = MAX_PIXELS
) -> Raster:
    """Open a picture file, or the bytes of one; only its header is read.

    ::

        with open_raster("scan.tif") as raster:
            bands, height, width = raster.shape
            corner = raster.read(rows=slice(0, 256), columns=slice(0, 256))  # (bands, 256, 256)

    Ordinary pictures are read by Pillow. Deep ones, and TIFF of any number of bands and any type,
    by tifffile and imagecodecs (``pip install "segzoo[tiff]"``); georeferenced TIFF by rasterio
    (``"segzoo[geo]"``).

    Args:
        path: A file: PNG, JPEG, TIFF, WebP, BMP, GIF, PPM, JPEG 2000, AVIF, TGA, PCX, QOI or SGI.
            Bytes are such a file's content, and nothing of it is written to the disk.
        raw: Give the values as they are stored, as a mask needs them: palette indices, 1 bit as 0
            and 1, no inversion. Otherwise palettes, CMYK and the like become RGB. Both are turned
            upright where EXIF data or a TIFF file's tag says so; GDAL turns nothing.
        max_pixels: The largest picture that is decoded as a whole. TIFF files that are read
            by windows may be larger.

    Returns:
        Its facts (:attr:`Raster.info`) and :meth:`Raster.read`.

    Raises:
        InputError: It is missing, damaged, holds several pictures, or values that cannot be read
            truly with what is installed.
        PixelLimitError: It is too large; also an InputError.
    """
    file: BinaryIO
    if isinstance(path, bytes):
        file, path = BytesIO(path), UNNAMED
    else:
        path = path_of("path", path)
        try:
            file = open_ordinary(path)
        except OSError as error:
            raise unreadable(path, error) from error
    try:
        if file.read(4) in SIGNATURES:
            return _open_tiff(file, path, raw=raw, limit=max_pixels)
        return open_with_pillow(file, path, raw=raw, limit=max_pixels)
    except (SegzooError, MemoryError):
        file.close()
        raise
    except Exception as error:  # decoders fail in many ways on a damaged header
        file.close()
        raise unreadable(path, error) from error
    except BaseException:
        file.close()
        raise


def is_georeferenced(path: str | os.PathLike[str]) -> bool:
    """Whether a file says where on the ground it lies, whatever is installed to read that."""
    with open_ordinary(Path(path)) as file:
        return file.read(4) in SIGNATURES and _only_picture(file, Path(path)).geographic


def turned_by(path: Path) -> int:
    """How far a file is turned as it is read (EXIF's and TIFF's orientation): 1 for not at all.

    Of a damaged file it raises whatever the reader of its header does.
    """
    with open_ordinary(path) as file:
        if file.read(4) in SIGNATURES:
            page = _only_picture(file, path)
            return 1 if _is_gdal_s(page) else page.orientation
        with opened(file, path) as image:
            return stated_orientation(image, file)


def _is_gdal_s(page: TiffPage) -> bool:
    """Whether GDAL reads it: as it is stored, for that is what its place on the ground is of."""
    return page.geographic and page.index == 0 and has_package("rasterio")


def _open_tiff(file: BinaryIO, path: Path, *, raw: bool, limit: int) -> Raster:
    page = _only_picture(file, path)
    # A tile is decoded as a whole, and may be larger than the picture that it is a part of.
    check_pixels(path, page.tile, limit)
    plain = _pillow_is_true(page, raw=raw)
    simple = page.photometric in (0, 1, 2) or (raw and page.photometric == 3)
    by_windows = min(page.bits) >= 8 and simple and page.compression not in (6, 7)
    if _is_gdal_s(page):
        raster = open_georeferenced(file, path, page, raw=raw)
        _check_block(raster, limit)
        return raster
    large = page.width * page.height > _LARGE
    if by_windows and (not plain or large or page.index) and has_package("tifffile"):
        raster = open_tiff(file, path, page, raw=raw)
        _check_block(raster, limit)
        return raster
    if not plain or page.index != 0:
        needs = "" if has_package("tifffile") else ' Reading it needs: pip install "segzoo[tiff]".'
        raise InputError(f"{path} holds {page}, which cannot be read truly here.{needs}")
    check_pixels(path, (page.width, page.height), limit)
    raster = open_with_pillow(file, path, raw=raw, limit=limit)
    raster.info = replace(raster.info, nodata=_as_pillow_reads(page.unknown, page, raw=raw))
    return raster


def _as_pillow_reads(stored: float | None, page: TiffPage, *, raw: bool) -> float | None:
    """What Pillow makes of a stored value; None where that is a colour and no single number."""
    if stored is None or raw:
        return stored
    if page.photometric not in (0, 1, 2, 6):  # entries of a palette, inks, CIELAB
        return None
    value = stored * (1 if page.bits[0] >= 8 else 255 / (2 ** page.bits[0] - 1))
    return 255 - value if page.photometric == 0 else value


def _check_block(raster: Raster, limit: int) -> None:
    """Raise where a part that is decoded at once is too large, in a file read by windows."""
    rows, columns = raster.info.block
    try:
        check_pixels(raster.info.path, (columns, rows), limit, raster.info.bands)
    except InputError:
        raster.close()
        raise


def read_whole(raster: Raster, max_pixels: int = MAX_PIXELS) -> Values:
    """All values of a raster, of which the size is looked at before anything is decoded.

    Returns:
        ``(bands, height, width)``.

    Raises:
        InputError: It has more pixels, or cannot be decoded.
    """
    info = raster.info
    check_pixels(info.path, (info.width, info.height), max_pixels, info.bands)
    return raster.read()


def _only_picture(file: BinaryIO, path: Path) -> TiffPage:
    try:
        found = read_pages(file)
    except TagError as error:
        raise unreadable(path, error) from error
    pictures = found.pictures
    if not pictures:
        raise InputError(
            f"{path} holds thumbnails and masks only, no picture of full resolution on its own."
        )
    if len(pictures) > 1 or found.more:
        count = f"more than {len(found.pages)}" if found.more else len(pictures)
        raise InputError(
            f"{path} holds {count} pictures. Save the one you mean as a file of its own."
        )
    return pictures[0]


def _pillow_is_true(page: TiffPage, *, raw: bool) -> bool:
    """Whether Pillow gives the values of such a page as they are, or as colours that it knows."""
    depths, samples, extra = set(page.bits), page.samples, page.extra
    if set(page.formats) != _UNSIGNED or len(depths) != 1:
        return False
    bits = depths.pop()
    if bits == 16:
        return samples == 1 and page.photometric == 1
    if bits < 8:
        return samples == 1 and page.photometric in (0, 1, 3)
    opaque = not extra
    alpha = len(extra) == 1 and page.alpha
    known = {
        0: samples == 1,
        1: (samples == 1 and opaque) or (samples == 2 and alpha),
        2: (samples == 3 and opaque) or (samples == 4 and alpha),
        3: samples == 1,
        5: samples == 4 and opaque,
        6: samples == 3 and opaque,
        8: samples == 3 and opaque,
    }
    return bits == 8 and known.get(page.photometric, False)
