"""The tags of a TIFF file, read by ourselves: what decoded values are held against.

TIFF 6.0 (Adobe, 1992) and BigTIFF. Only what says how values are stored is looked at; each entry
and the number of directories are bounded, so a file of any size or malice answers at once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

#: Where a file may begin, with its byte order; the second pair is BigTIFF.
SIGNATURES = {b"II*\0": ("<", False), b"MM\0*": (">", False)} | {
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
#: More directories than this are not looked at: it is no file for one picture.
MOST_PAGES = 1000
#: Values of an entry that are read; those that we need have fewer.
_MOST_VALUES = 1024

_STRUCT = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 12: "d", 13: "I", 16: "Q", 18: "Q"}
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _EXTRA, _FORMAT, _NODATA = 274, 277, 338, 339, 42113
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_WANTED = frozenset(
    {
        *(_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC),
        *(_ORIENTATION, _SAMPLES, _EXTRA, _FORMAT, _NODATA, _TILE_WIDTH, _TILE_HEIGHT),
    }
)
#: ModelPixelScale, ModelTiepoint, ModelTransformation: GeoTIFF's ways to say where a file lies; and
#: RPCCoefficient, the way of satellites.
_GEOGRAPHIC = (33550, 33922, 34264, 50844)

#: SampleFormat and bits of a type of NumPy's.
_KINDS = {1: "uint", 2: "int", 3: "float"}
#: PhotometricInterpretation in words.
_COLOURS = {0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr"}


class TagError(ValueError):
    """A TIFF file whose directories cannot be followed."""


@dataclass(frozen=True)
class TiffPage:
    """One directory: how its values are stored."""

    index: int
    width: int
    height: int
    bits: tuple[int, ...]
    formats: tuple[int, ...]
    samples: int
    photometric: int
    extra: tuple[int, ...]
    compression: int
    orientation: int
    reduced: bool
    geographic: bool
    nodata: str | None
    tile: tuple[int, int] = (0, 0)

    @property
    def type_name(self) -> str:
        """The values' type in NumPy's words: ``uint16``, ``float32``; 12 bits are ``uint12``."""
        kinds = {_KINDS.get(item, "unknown") for item in self.formats}
        return f"{'/'.join(sorted(kinds))}{'/'.join(map(str, sorted(set(self.bits))))}"

    @property
    def unknown(self) -> float | None:
        """The stored value of pixels that are not known; None where none is told, or no number."""
        try:
            return None if self.nodata is None else float(self.nodata)
        except ValueError:
            return None

    @property
    def alpha(self) -> bool:
        """Whether the last sample is opacity, associated or not."""
        return bool(self.extra) and self.extra[-1] in (1, 2)

    def __str__(self) -> str:
        colours = _COLOURS.get(self.photometric, f"photometric {self.photometric}")
        bands = f"{self.samples} band{'s' if self.samples > 1 else ''}"
        return f"{bands} of {self.type_name} ({colours})"


@dataclass(frozen=True)
class TiffPages:
    """The directories of a file.

    Attributes:
        pages: At most :data:`MOST_PAGES`.
        more: Whether there are more.
    """

    pages: tuple[TiffPage, ...]
    more: bool

    @property
    def pictures(self) -> tuple[TiffPage, ...]:
        """The pages of full resolution: without overviews, thumbnails and masks."""
        return tuple(page for page in self.pages if not page.reduced)


def read_pages(file: BinaryIO) -> TiffPages:
    """Read the directories of an open TIFF file.

    Raises:
        TagError: The file ends in the middle of one, or they go in a circle.
    """
    file.seek(0)
    order, big = SIGNATURES[file.read(4)]
    if big:
        _, _, offset = _unpack(file, f"{order}HHQ")
    else:
        (offset,) = _unpack(file, f"{order}I")
    pages: list[TiffPage] = []
    seen: set[int] = set()
    while offset and len(pages) < MOST_PAGES:
        if offset in seen:
            raise TagError("its directories go in a circle")
        seen.add(offset)
        entries, offset = _directory(file, order, big, offset)
        pages.append(_page(len(pages), entries))
    if not pages:
        raise TagError("it has no directory")
    return TiffPages(tuple(pages), more=bool(offset))


def _seek(file: BinaryIO, offset: int) -> None:
    try:
        file.seek(offset)
    except (OSError, ValueError, OverflowError) as error:  # no place that a file could have
        raise TagError("it points behind the end of any file") from error


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    size = struct.calcsize(layout)
    data = file.read(size)
    if len(data) < size:
        raise TagError("it ends in the middle of a directory")
    return struct.unpack(layout, data)


Entry = tuple[int, ...] | bytes


def _directory(
    file: BinaryIO, order: str, big: bool, offset: int
) -> tuple[Mapping[int, Entry], int]:
    """The wanted entries of a directory, and where the next one lies (0 after the last)."""
    _seek(file, offset)
    (count,) = _unpack(file, f"{order}{'Q' if big else 'H'}")
    if count > 4096:
        raise TagError(f"a directory claims {count} entries")
    size, inline = (20, 8) if big else (12, 4)
    table = file.read(count * size)
    (following,) = _unpack(file, f"{order}{'Q' if big else 'I'}")
    entries: dict[int, Entry] = {}
    for i in range(count):
        raw = table[i * size : (i + 1) * size]
        tag, kind = struct.unpack(f"{order}HH", raw[:4])
        (number,) = struct.unpack(f"{order}{'Q' if big else 'I'}", raw[4 : size - inline])
        if tag in _GEOGRAPHIC:
            entries[tag] = ()
        if tag not in _WANTED or kind not in _STRUCT:
            continue
        number = min(number, _MOST_VALUES)
        layout = f"{order}{number}{_STRUCT[kind]}"
        length, data = struct.calcsize(layout), raw[size - inline :]
        if length > inline:
            _seek(file, struct.unpack(f"{order}{'Q' if big else 'I'}", data)[0])
            data = file.read(length)
        if len(data) >= length:
            values = struct.unpack(layout, data[:length])
            entries[tag] = values[0] if kind == 2 else values
    return entries, following


def _page(index: int, entries: Mapping[int, Entry]) -> TiffPage:
    def numbers(tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        found = entries.get(tag, default)
        try:
            return tuple(int(value) for value in found) if found else default
        except (ValueError, OverflowError) as error:  # of real numbers that are none
            raise TagError("a tag has values of another kind") from error

    text = entries.get(_NODATA)
    samples = numbers(_SAMPLES, (1,))[0]
    return TiffPage(
        index=index,
        width=numbers(_WIDTH, (0,))[0],
        height=numbers(_HEIGHT, (0,))[0],
        bits=numbers(_BITS, (1,)),
        formats=numbers(_FORMAT, (1,)),
        samples=samples,
        photometric=numbers(_PHOTOMETRIC, (1,))[0],
        extra=numbers(_EXTRA, ()),
        compression=numbers(_COMPRESSION, (1,))[0],
        orientation=numbers(_ORIENTATION, (1,))[0],
        # Bit 0: of reduced resolution; bit 2: a mask of another page.
        reduced=bool(numbers(_SUBFILE, (0,))[0] & 5),
        geographic=any(tag in entries for tag in _GEOGRAPHIC),
        nodata=text.split(b"\0")[0].decode("ascii", "replace").strip()
        if isinstance(text, bytes)
        else None,
        tile=(numbers(_TILE_WIDTH, (0,))[0], numbers(_TILE_HEIGHT, (0,))[0]),
    )
