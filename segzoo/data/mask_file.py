"""One mask file: whether its numbers can be trusted, and what they are."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .faults import PairError
from .mask_coding import MaskCoding
from .pairs import Window
from .raster import open_raster
from .tiles import slices

_EXIF = frozenset({"exif", "Raw profile type exif"})
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_classes(path: Path, coding: MaskCoding, window: Window | None = None) -> Tensor:
    """The classes in a mask file or a window of it, ``(H, W)`` int64.

    Raises:
        PairError: A file whose numbers cannot be trusted, or with values that are no class.
        InputError: A file that cannot be read.
    """
    refuse_lossy(lossy_format(path))
    with open_raster(path, raw=coding.colors is None) as raster:
        return coding.decode(torch.from_numpy(raster.read(*slices(window))))


def refuse_lossy(kind: str | None) -> None:
    """Raise for a mask that went through a format which does not keep exact values."""
    if kind is not None:
        raise PairError(
            "lossy",
            f"the mask is a {kind} file, which does not keep numbers exactly",
            "Save masks as PNG; what was once JPEG has to be made again from its source.",
        )


def lossy_format(path: Path) -> str | None:
    """The name of a format that loses exact values, if the file is of one."""
    try:
        with path.open("rb") as file:
            head = file.read(40)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if head.startswith(_TIFF) and _compression(path) == "jpeg":
        return "JPEG compressed TIFF"
    return lossy_bytes(head)


def lossy_bytes(head: bytes) -> str | None:
    """The same from the first forty bytes of a file."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and head[12:16] == b"VP8 ":
        return "lossy WebP"
    if head[4:12] in (b"ftypavif", b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "AVIF or HEIC"
    return None


def _compression(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            return str(image.info.get("compression"))
    except Exception:  # not one of Pillow's: the reader says what is wrong, if anything is
        return None


def orientation(path: Path) -> int:
    """How far a file asks to be turned when it is shown (EXIF): 1 for not at all."""
    try:
        with Image.open(path) as image:
            # Of a PNG, getexif() decodes all pixels to look behind them; what is before is in info.
            if image.format == "PNG" and not _EXIF & image.info.keys():
                return 1
            value = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
