"""Pictures for pages: made here, of any kind and size."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def noise(height: int, width: int, bands: int) -> np.ndarray:
    """Blots of colour, such as a small model has classes for."""
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, bands), dtype=np.uint8)
    return np.array(Image.fromarray(coarse.squeeze()).resize((width, height), 3))


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png(pixels: np.ndarray, **options) -> bytes:
    return encoded(pixels, "PNG", **options)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
