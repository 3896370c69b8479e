"""Small folders of pictures and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 16)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def labels(seed: int = 0, classes: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Every class is there."""
    values = np.random.default_rng(seed).integers(0, classes, size, dtype=np.uint8)
    values.flat[:classes] = range(classes)
    return values


def save(path: Path, values: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def make_pairs(
    root: Path, names: str | list[str] = "abcdef", *, classes: int = 3, suffix: str = ""
) -> tuple[Path, Path]:
    """``root/images`` and ``root/masks``."""
    for seed, name in enumerate(names):
        save(root / "images" / f"{name}.png", picture(seed))
        save(root / "masks" / f"{name}{suffix}.png", labels(seed, classes))
    return root / "images", root / "masks"
