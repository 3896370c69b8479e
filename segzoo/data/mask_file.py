"""One mask file: whether its numbers can be trusted, and what they are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .faults import PairError
from .lossy import lossy_format, refuse_lossy
from .mask_coding import MaskCoding
from .pairs import Window
from .raster import open_raster, read_whole, turned_by
from .tiles import slices


def read_classes(path: Path, coding: MaskCoding, window: Window | None = None) -> Tensor:
    """The classes in a mask file or a window of it, ``(H, W)`` int64.

    Raises:
        PairError: A file whose numbers cannot be trusted, or with values that are no class.
        InputError: A file that cannot be read.
    """
    refuse_lossy(lossy_format(path))
    with open_raster(path, raw=coding.colors is None) as raster:
        if raster.info.bands == 2 and not raster.info.alpha:
            raise PairError(
                "bands", "the mask has 2 bands, a mask has one", "Save the one with the classes."
            )
        values = read_whole(raster) if window is None else raster.read(*slices(window))
        return coding.decode(torch.from_numpy(values))


def orientation(path: Path) -> int:
    """How far a file is turned when it is read (EXIF): 1 for not at all."""
    try:
        value = turned_by(path)
    except Exception:  # decoders fail in many ways; its reader says what is wrong
        return 1
    return value if 1 <= value <= 8 else 1
