"""Pictures of more than 8 bits that Pillow would cut to 8: decoded by imagecodecs, or refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ...errors import InputError
from ...packages import has_package, load_package
from .face import Raster, RasterInfo, WholeRaster, turned

if TYPE_CHECKING:
    from PIL import Image

#: Headers lie at the front; a search for one goes no further.
_HEADER = 1 << 16
#: PNG's colour types: bands by number.
_PNG_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True)
class Depth:
    """What a header says of the values.

    Args:
        bands: Values of each pixel, or None where the header was not asked.
        bits: Bits of each.
        signed: Whether they may be negative.
        codec: What of imagecodecs decodes them, or None where nothing does.
        alpha: Whether a band beyond grey or three colours is opacity.
    """

    bands: int | None
    bits: int
    signed: bool = False
    codec: str | None = None
    alpha: bool = True


def depth_of(file: BinaryIO, image: Image.Image) -> Depth:
    """Depth by the file's own header; 8 bits for formats that have no other.

    Args:
        file: The open file.
        image: What Pillow made of its header; nothing is decoded yet.
    """
    file.seek(0)
    head = file.read(_HEADER)
    kind = image.format
    if kind == "PNG":
        return Depth(_PNG_BANDS.get(head[25]), head[24], codec="png_decode")
    if kind == "JPEG2000":
        return _jpeg2000(head)
    if kind == "AVIF":
        box = head.find(b"av1C")
        flags = head[box + 6] if 0 <= box < len(head) - 6 else 0
        return Depth(None, (12 if flags & 0x20 else 10) if flags & 0x40 else 8)
    return Depth(None, _raw_depth(image))


def _jpeg2000(head: bytes) -> Depth:
    """From the SIZ marker segment (ISO/IEC 15444-1, A.5.1), and the box of channels (I.5.3.6)."""
    start = head.find(b"\xff\x4f\xff\x51")
    fields = head[start + 4 :] if start >= 0 else b""
    if len(fields) < 39:
        return Depth(None, 8)
    bands = int.from_bytes(fields[36:38], "big")
    sizes = fields[38 : 38 + 3 * bands : 3]
    bits = max((size & 0x7F) + 1 for size in sizes)
    signed = any(size & 0x80 for size in sizes)
    return Depth(
        bands, bits, signed=signed, codec="jpeg2k_decode", alpha=_has_opacity(head[:start])
    )


def _has_opacity(boxes: bytes) -> bool:
    """Whether one of the channels is called opacity; else a fourth may as well be infrared."""
    place = boxes.find(b"cdef", max(boxes.find(b"jp2h"), 0))
    if place < 0:
        return False
    channels = boxes[
        place + 6 : place + 6 + 6 * int.from_bytes(boxes[place + 4 : place + 6], "big")
    ]
    kinds = [int.from_bytes(channels[i + 2 : i + 4], "big") for i in range(0, len(channels), 6)]
    return any(kind in (1, 2) for kind in kinds)


def _raw_depth(image: Image.Image) -> int:
    """By the layout that Pillow will unpack: ``RGB;16B``, or a largest value above 255."""
    bits = 8
    for tile in getattr(image, "tile", []):
        options = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        for option in options:
            if isinstance(option, str) and (found := re.search(r";(\d+)", option)):
                bits = max(bits, int(found[1]))
            elif tile[0].startswith("ppm") and isinstance(option, int):
                bits = max(bits, option.bit_length())
    return bits


def open_deep(
    file: BinaryIO, path: Path, depth: Depth, size: tuple[int, int], orientation: int
) -> Raster:
    """Open a picture whose values Pillow would cut.

    Args:
        file: The open file; closed with the raster.
        path: Its path, for messages.
        depth: What its header says.
        size: Width and height, as stored.
        orientation: EXIF's.

    Raises:
        InputError: Nothing that is installed decodes it truly.
    """
    bands = f"{depth.bands} bands of " if depth.bands else ""
    what = f"{path} holds {bands}{depth.bits} bits{' with a sign' if depth.signed else ''}"
    if depth.codec is None or depth.bands is None or depth.signed:
        raise InputError(f"{what}, of which Pillow gives 8. Save it as PNG or TIFF with 16 bits.")
    if not has_package("imagecodecs"):
        raise InputError(
            f'{what}, of which Pillow gives 8. Reading it needs: pip install "segzoo[tiff]".'
        )
    width, height = size if orientation not in (5, 6, 7, 8) else size[::-1]
    info = RasterInfo(
        path=path,
        height=height,
        width=width,
        bands=depth.bands,
        dtype=np.dtype(np.uint16 if depth.bits > 8 else np.uint8),
        bits=depth.bits,
        alpha=depth.alpha and depth.bands in (2, 4),
        block=(height, width),
    )
    codec = depth.codec

    def load() -> Any:
        file.seek(0)
        values = getattr(load_package("imagecodecs", extra="tiff"), codec)(file.read())
        planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        return turned(planes, orientation)

    return WholeRaster(info, load, file)
