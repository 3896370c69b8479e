"""What is done with each picture, and by which model; the same in every process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import checks
from ..data.pixel_values import check_band_numbers, check_range
from ..data.raster import MAX_PIXELS
from .tiled_jobs import TiledOptions, tiled_ending


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Args:
        bands: The bands to take, counted from 1; None for what the model takes.
        value_range: The values that become 0 and 1; None where the type tells them.
        max_pixels: The largest picture that is decoded as a whole.
    """

    bands: Sequence[int] | None = None
    value_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", check_band_numbers(self.bands))
        object.__setattr__(self, "value_range", check_range(self.value_range))
        checks.integer("max_pixels", self.max_pixels, minimum=1, maximum=1 << 48)


@dataclass(frozen=True)
class Task:
    """What is done with each picture, and by which model.

    >>> task = Task("my-model", overlays=False)
    >>> task.ending(Path("photo.jpg")) is None
    True

    Args:
        model: A model folder, an exported file, or a repository on the Hub.
        revision: Branch, tag or commit of the repository.
        device: Where it computes; ``auto`` is a CUDA GPU where there is one.
        reading: How pictures are read.
        tiles: How pictures are cut that are cut into tiles, and what is written.
        in_tiles: Whether all pictures go through tiles; else the large ones and those with a place
            on the ground.
        overlays: Whether a picture in one piece gets an overlay beside its mask.
        batch_size: How many pictures of one size the model sees at a time. With 1 a mask is that
            of ``model.predict``, to the bit. Larger batches keep a GPU busy with small pictures;
            their sums may be rounded otherwise, so that a pixel where two classes are equal up to
            rounding may get the other one.
    """

    model: str
    revision: str | None = None
    device: str = "auto"
    reading: Reading = Reading()
    tiles: TiledOptions = field(default_factory=TiledOptions)
    in_tiles: bool = False
    overlays: bool = True
    batch_size: int = 1

    def __post_init__(self) -> None:
        checks.integer("batch_size", self.batch_size, minimum=1, maximum=1024)

    def ending(self, image: Path) -> str | None:
        """The ending of the result of a picture that is cut into tiles; None for others."""
        return tiled_ending(
            image,
            asked=self.in_tiles,
            write=self.tiles.write,
            max_pixels=self.reading.max_pixels,
        )

    def decides(self) -> dict[str, Any]:
        """What the results depend on besides the model, as JSON.

        Not :attr:`in_tiles`: a run may go on with it, so that a picture which was too large for the
        memory in one piece is cut.
        """
        tiles = {
            name: value
            for name, value in dataclasses.asdict(self.tiles).items()
            if name not in ("rows", "overwrite", "progress")
        }
        return {"options": tiles, "reading": dataclasses.asdict(self.reading)}
