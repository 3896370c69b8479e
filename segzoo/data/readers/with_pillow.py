"""Ordinary pictures, by Pillow: only formats that are meant, and nothing that it would cut."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ...errors import InputError, PixelLimitError
from .deep import depth_of, open_deep
from .face import Raster, RasterInfo, Values, WholeRaster, native, turned, unreadable

#: The formats of photographs, scans and masks. Others are not tried: Pillow would start Ghostscript
#: for PostScript, and several are no pictures at all (HDF5, GRIB).
FORMATS = (
    *("PNG", "JPEG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF"),
    *("TGA", "PCX", "QOI", "SGI"),
)
#: Pillow's mode of a file -> the mode to read it in; others are read in their own.
_READ_AS = {
    "1": "L",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
}
#: Modes whose bands are other than their letters say.
_BANDS = {"L": 1, "I": 1, "F": 1, "P": 1, "1": 1, "LA": 2, "PA": 2, "RGB": 3, "RGBA": 4}
#: Pictures in one file that are counted before it is refused.
_MOST_COUNTED = 16
_ORIENTATION = 0x0112
#: Chunks of a PNG that are passed over in the search for one.
_MOST_CHUNKS = 100_000


def open_with_pillow(file: BinaryIO, path: Path, *, raw: bool, limit: int) -> Raster:
    """Open a picture; nothing is decoded before its size is known.

    Args:
        file: The open file; closed with the raster.
        path: Its path, for messages.
        raw: Leave palettes and inverted or small values as they are stored: a mask.
        limit: The largest number of pixels.

    Raises:
        InputError: It is no picture, has several, more pixels or other values than can be read.
    """
    try:
        image = opened(file, path)
    except InputError:
        raise
    except Exception as error:  # Pillow's readers fail in many ways on a damaged header
        raise unreadable(path, error) from error
    check_pixels(path, image.size, limit)
    _check_single(image, path)
    depth = depth_of(file, image)
    orientation = stated_orientation(image, file)
    if depth.signed or _cuts(image.mode, depth.bits, depth.codec):
        return open_deep(file, path, depth, image.size, orientation)
    if raw and image.format == "PPM":
        _check_largest(image, path)
    mode = _mode(image, raw=raw)
    width, height = _upright_size(image, orientation)
    dtype = np.dtype({"F": "float32", "I": "int32"}.get(mode, "uint8"))
    if mode.startswith("I;16") or (mode == "I" and depth.bits == 16):
        dtype = np.dtype("uint16")  # some formats of 16 bits are opened with 32
    info = RasterInfo(
        path=path,
        height=height,
        width=width,
        bands=_BANDS.get(mode, 1 if mode.startswith("I;16") else len(mode)),
        dtype=dtype,
        bits=dtype.itemsize * 8,
        alpha=depth.alpha and mode.endswith("A"),
        block=(height, width),
        # Of fewer bits the values are stretched, too.
        inverted=not raw and _is_inverted(image) and _small(image) == 1,
    )
    divisor = _small(image) if raw else 1

    def load() -> Values:
        file.seek(0)
        with opened(file, path) as again:
            inverted = raw and _is_inverted(again)
            # Newer versions of Pillow turn TIFF by themselves.
            upright = ImageOps.exif_transpose(again) if again.format == "TIFF" else again
            values: Any = np.array(upright if upright.mode == mode else upright.convert(mode))
            turn = 1 if again.format == "TIFF" else orientation
        values = native(values)
        if inverted:
            values = 255 - values
        planes: Values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        return turned(planes // divisor if divisor > 1 else planes, turn)

    return WholeRaster(info, load, file)


def check_pixels(path: Path, size: tuple[int, int], limit: int, bands: int = 1) -> None:
    """Raise for a picture of more pixels than may be decoded at once.

    Args:
        path: Its file, for the message.
        size: Width and height.
        limit: The largest number of pixels.
        bands: More than sixteen count as so many more pixels.
    """
    width, height = size
    if width * height * max(bands, 16) > limit * 16:
        many = f" of {bands} bands" if bands > 16 else ""
        raise PixelLimitError(
            f"{path} has {width}x{height} pixels{many}, more than the limit of {limit:,}. If the "
            "file is to be trusted, raise the limit (max_pixels=, --max-pixels).",
            size=size,
            limit=limit,
        )


def opened(file: BinaryIO, path: Path) -> Image.Image:
    """What ``Image.open`` does, without its limit, which is one setting for the whole process.

    Raises:
        InputError: It is of none of :data:`FORMATS`.
    """
    Image.init()
    file.seek(0)
    prefix = file.read(16)
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        if accept is not None and not _accepts(accept, prefix):
            continue
        file.seek(0)
        try:
            return factory(file, str(path))
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # of another format
    raise InputError(
        f"{path} cannot be read as a picture: it is none of {', '.join(FORMATS)}, or damaged."
    )


def _accepts(accept: Any, prefix: bytes) -> bool:
    """Whether a format knows a file by its first bytes; some answer with text where they cannot."""
    verdict = accept(prefix)
    return bool(verdict) and not isinstance(verdict, str)


def _check_single(image: Image.Image, path: Path) -> None:
    """Raise for several pictures in one file, which is found without counting all of them."""
    if image.format in ("MPO", "TIFF"):  # a photograph and its previews; TIFF's tags were read
        return
    count = 1
    try:
        while count <= _MOST_COUNTED:
            image.seek(count)
            count += 1
    except Exception:  # the end, or damage behind the first picture
        pass
    if count > 1:
        number = str(count) if count <= _MOST_COUNTED else f"more than {_MOST_COUNTED}"
        raise InputError(
            f"{path} holds {number} pictures. Save the one you mean as a file of its own."
        )


def stated_orientation(image: Image.Image, file: BinaryIO) -> int:
    """EXIF's orientation, found without decoding anything."""
    try:
        # A PNG's own method would decode the picture, to come to what may stand behind it.
        exif = Image.Image.getexif(image)
        if image.format == "PNG" and _ORIENTATION not in exif:
            exif.load(_late_exif(file))
        value = exif.get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data says nothing
        return 1
    return value if isinstance(value, int) else 1


def _late_exif(file: BinaryIO) -> bytes:
    """The EXIF chunk of a PNG, wherever it stands; chunks are passed over by their length."""
    place = 8
    for _ in range(_MOST_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            break
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            return b"Exif\0\0" + file.read(min(length, 1 << 20))
        place += length + 12
    return b""


def _upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """Width and height once it is turned; newer versions of Pillow say so at once for TIFF."""
    tags = getattr(image, "tag_v2", None)
    size = (tags[256], tags[257]) if tags is not None and 257 in tags else image.size
    return size[::-1] if orientation in (5, 6, 7, 8) else size


def _cuts(mode: str, bits: int, codec: str | None) -> bool:
    """Whether Pillow's mode holds fewer bits than the file, or other values than it."""
    if bits <= 8:
        return False
    if mode in ("I", "F") or mode.startswith("I;16"):
        return codec == "jpeg2k_decode"  # which Pillow stretches to 16 bits
    return True


def _mode(image: Image.Image, *, raw: bool) -> str:
    if raw:
        return "L" if image.mode == "1" else image.mode
    mode = _READ_AS.get(image.mode, image.mode)
    # A palette with transparent entries.
    return "RGBA" if mode == "RGB" and image.has_transparency_data else mode


def _layout(image: Image.Image) -> str:
    """How Pillow unpacks the stored values: ``L;4`` are four bits."""
    tiles = getattr(image, "tile", None)
    options = tiles[0][3] if tiles else ""
    first = options[0] if isinstance(options, tuple) and options else options
    return first if isinstance(first, str) else ""


def _small(image: Image.Image) -> int:
    """What Pillow multiplies values of 1, 2 and 4 bits by, so that they reach 255."""
    layout = _layout(image)
    if image.mode == "1":
        return 255
    if image.mode == "L" and layout.startswith(("L;2", "L;4")):
        return {"2": 85, "4": 17}[layout[2]]
    return 1


def _is_inverted(image: Image.Image) -> bool:
    layout = _layout(image)
    return image.mode in ("1", "L") and ";" in layout and "I" in layout.partition(";")[2]


def _check_largest(image: Image.Image, path: Path) -> None:
    """Raise for a PGM file whose values Pillow would stretch."""
    for tile in getattr(image, "tile", []):
        largest = tile[3][1] if isinstance(tile[3], tuple) and len(tile[3]) > 1 else 255
        if tile[0].startswith("ppm") and isinstance(largest, int) and largest not in (255, 65535):
            raise InputError(
                f"{path} has a largest value of {largest}, to which values are relative: as a mask "
                "it cannot be read truly. Save it as PNG."
            )
