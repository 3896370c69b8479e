"""Formats that do not keep exact values: fine for photographs, useless for masks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from ..errors import InputError
from ..files.atomic import open_ordinary
from .faults import PairError
from .readers.tiff_tags import SIGNATURES, TagError, read_pages

#: What of a file is looked at; the headers that tell lie in it.
_HEAD = 1 << 16
#: TIFF's Compression -> its name. In each of them values may come back as others.
_TIFF = {
    **dict.fromkeys((6, 7, 34892), "JPEG compressed TIFF"),
    **dict.fromkeys((33003, 33005, 34712), "JPEG 2000 compressed TIFF"),
    **dict.fromkeys((50001, 50002, 52546), "WebP or JPEG XL compressed TIFF"),
}
#: Brands of ISO media files with pictures (HEIF, AVIF).
_BRANDS = frozenset((b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"))
_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")


def refuse_lossy(kind: str | None) -> None:
    """Raise for a mask that went through a format which does not keep exact values."""
    if kind is not None:
        raise PairError(
            "lossy",
            f"the mask is a {kind} file, which does not keep numbers exactly",
            "Save masks as PNG; what was once JPEG has to be made again from its source.",
        )


def lossy_format(path: Path) -> str | None:
    """The name of a format that loses exact values, if the file is of one.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with open_ordinary(path) as file:
            head = file.read(_HEAD)
            if head[:4] in SIGNATURES:
                return _lossy_tiff([page.compression for page in read_pages(file).pages])
    except TagError:  # its reader says what is wrong
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return lossy_bytes(head)


def lossy_bytes(data: bytes) -> str | None:
    """The same from the bytes of a file, or its first 64 KiB."""
    if data[:4] in SIGNATURES:
        try:
            return _lossy_tiff([page.compression for page in read_pages(BytesIO(data)).pages])
        except TagError:
            return None
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "lossy WebP" if b"VP8 " in _webp_chunks(data) else None
    if data[4:8] == b"ftyp" and data[8:12] in _BRANDS:
        return "AVIF or HEIC"
    if data.startswith(_JPEG_2000) and _is_irreversible(data):
        return "lossy JPEG 2000"
    return None


def _lossy_tiff(compressions: list[int]) -> str | None:
    return next((_TIFF[item] for item in compressions if item in _TIFF), None)


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    """The kinds of the chunks: pixels may stand behind an extended header and a profile."""
    place = 12
    while place + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, place + 4)
        yield data[place : place + 4]
        place += 8 + length + length % 2


def _is_irreversible(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream has the 9-7 wavelet (ISO/IEC 15444-1, A.6.1, table A.20)."""
    place = data.find(b"\xff\x4f\xff\x51") + 2
    while place >= 2 and place + 14 <= len(data):
        marker, length = struct.unpack_from(">HH", data, place)
        if marker == 0xFF52:  # COD
            return data[place + 13] == 0
        place += 2 + max(length, 2)
    return False
