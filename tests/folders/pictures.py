"""Small pictures for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save_pictures(folder: Path, count: int, *, side: int = 24) -> list[str]:
    """Random pictures ``0.png``, ``1.png``, ... in a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        values = np.random.default_rng(index).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
    return [str(path) for path in paths]
