"""PNG files of masks and overlays, made with less work than a general encoder takes.

Such an encoder tries five filters for each row, and searches far back for all that comes again.
Here each row is written as its difference to the one above, which of a mask leaves zeros except at
the borders of its classes, and of a photograph small numbers. Of masks only runs of equal bytes are
looked for then. The files are about as small as those of Pillow's level 6 (masks) and 1 (overlays).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: PNG's numbers of colour types.
_GREY, _RGB, _PALETTE = 0, 2, 3
#: PNG's number of the filter that takes the byte above away.
_UP = 2
#: Bytes that are filtered and packed at a time: they stay in a core's own cache.
_STRIPE = 1 << 18


def encode_png(pixels: NDArray[Any], *, palette: bytes | None = None) -> bytes:
    """The bytes of a PNG file.

    >>> import io
    >>> from PIL import Image
    >>> pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    >>> np.array(Image.open(io.BytesIO(encode_png(pixels)))).tolist()
    [[0, 1, 2], [3, 4, 5]]

    Args:
        pixels: ``(H, W)`` of uint8 or uint16, or ``(H, W, 3)`` of uint8: red, green, blue.
        palette: Of ``(H, W)`` of uint8: the colours that the values stand for, three bytes each,
            1 to 256 of them. Numbers of up to 16 colours take fewer bits in the file.
    """
    height, width = pixels.shape[:2]
    kind = _RGB if pixels.ndim == 3 else _GREY if palette is None else _PALETTE
    bits = 8 * pixels.dtype.itemsize if palette is None else _bits(len(palette) // 3)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [_SIGNATURE, *_chunk(b"IHDR", header)]
    if palette is not None:
        parts += _chunk(b"PLTE", palette)
    # PNG's integers have their high byte first; a row is filtered byte by byte.
    ordered = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">"))
    rows = ordered.view(np.uint8).reshape(height, -1)
    # A photograph that is grey has each byte three times, which is no run.
    strategy = zlib.Z_DEFAULT_STRATEGY if kind == _RGB else zlib.Z_RLE
    for compressed in _compressed(rows if bits >= 8 else _packed(rows, bits), strategy):
        parts += _chunk(b"IDAT", compressed)
    return b"".join([*parts, *_chunk(b"IEND", b"")])


def _bits(colors: int) -> int:
    """Bits that the number of a colour needs, of those that PNG has."""
    return next(bits for bits in (1, 2, 4, 8) if colors <= 1 << bits)


def _packed(rows: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Several numbers in a byte, the first in its highest bits."""
    if bits == 1:
        return np.packbits(rows, axis=1)
    count = 8 // bits
    filled = np.pad(rows, ((0, 0), (0, -rows.shape[1] % count)))
    packed: NDArray[np.uint8] = filled[:, ::count] << np.uint8(8 - bits)
    for place in range(1, count):
        packed |= filled[:, place::count] << np.uint8(8 - bits * (place + 1))
    return packed


def _compressed(rows: NDArray[np.uint8], strategy: int) -> Iterator[bytes]:
    """The filtered rows, by deflate."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
    height, length = rows.shape
    step = max(1, _STRIPE // (length + 1))
    for top in range(0, height, step):
        part = rows[top : top + step]
        filtered = np.empty((len(part), length + 1), np.uint8)
        filtered[:, 0] = _UP
        above = rows[top - 1] if top else np.uint8(0)  # what PNG takes for the row above the first
        np.subtract(part[:1], above, out=filtered[:1, 1:])
        np.subtract(part[1:], part[:-1], out=filtered[1:, 1:])
        if part_of_it := deflate.compress(filtered.data):
            yield part_of_it
    yield deflate.flush()


def _chunk(name: bytes, content: bytes) -> list[bytes]:
    check = zlib.crc32(content, zlib.crc32(name))
    return [struct.pack(">I", len(content)), name, content, struct.pack(">I", check)]
