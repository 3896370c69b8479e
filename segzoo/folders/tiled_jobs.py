"""Which pictures of a run are cut into tiles, and one of them as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checks
from ..data.raster import MAX_PIXELS, is_georeferenced, open_raster
from ..errors import SegzooError
from ..prediction.masks import check_confidence
from ..prediction.tiling.answers import KINDS
from ..prediction.tiling.plan import Wishes
from ..prediction.tiling.predict import TiledPrediction, predict_tiled
from ..prediction.views import Views

#: A picture above this is cut into tiles though nobody asked for it: in one piece it would take
#: gigabytes.
LARGE = 1 << 24


@dataclass(frozen=True)
class TiledOptions:
    """What :func:`segzoo.predict_tiled` is asked for; checked before a model is loaded."""

    tiling: str = "auto"
    tile: int = 1024
    overlap: float = 0.25
    tolerance: float = 1e-3
    rows: tuple[int, int] | None = None
    write: str = "classes"
    tta: str = "none"
    scales: Sequence[float] = (1.0,)
    nodata: float | None = None
    min_confidence: float | None = None
    overwrite: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        Wishes(self.tiling, self.tile, self.overlap, self.tolerance)
        checks.choice("write", self.write, KINDS)
        check_confidence(self.min_confidence, 2)
        Views(self.tta, self.scales)


def tiled_ending(path: Path, *, asked: bool, write: str, max_pixels: int) -> str | None:
    """The ending of the result of a picture that is cut into tiles; None for others.

    A georeferenced picture is always one of them: only so its place is kept.

    Args:
        path: The picture. One that cannot be read is none: it is told when it is its turn.
        asked: Whether tiles are wanted for every picture.
        write: What is written.
        max_pixels: The largest picture that is decoded as a whole.
    """
    try:
        with open_raster(path, max_pixels=max(max_pixels, MAX_PIXELS)) as raster:
            pixels = raster.info.height * raster.info.width
        located = is_georeferenced(path)
    except SegzooError:
        return None
    if not (asked or located or pixels > LARGE):
        return None
    return ".tif" if located or write != "classes" or pixels > MAX_PIXELS else ".png"


def predict_job(
    model: Any,
    image: Path,
    mask: Path,
    options: TiledOptions,
    *,
    bands: tuple[int, ...] | None,
    value_range: tuple[float, float] | None,
    max_pixels: int,
) -> TiledPrediction:
    """Segment a file into a file, see :func:`segzoo.predict_tiled`."""
    if is_georeferenced(image):  # which keeps its place, and is read by windows
        return predict_tiled(
            model, image, mask, bands=bands, value_range=value_range, **vars(options)
        )
    with open_raster(image, max_pixels=max_pixels) as raster:
        return predict_tiled(
            model, raster, mask, bands=bands, value_range=value_range, **vars(options)
        )
