"""Masks and overlays as PNG files that people can look at; nothing half written is left."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import StorageError
from ..files.atomic import replacing
from .png import encode_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Okabe and Ito, "Color Universal Design", 2008: told apart with every kind of colour vision.
_OKABE_ITO = ("E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7")

#: Linear sRGB to the cones of the eye, and their cube roots to Oklab.
_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
#: Classes up to which overlays are looked up in a table, of 1,536 bytes for each.
_TABLED = 256
#: Classes whose colours are chosen one by one, each as far as can be from those before.
_CHOSEN = 40


def class_colors(classes: int) -> NDArray[np.uint8]:
    """A colour for each class, ``(classes, 3)``: black, seven of Okabe and Ito, then any number.

    >>> class_colors(3).tolist()
    [[0, 0, 0], [230, 159, 0], [86, 180, 233]]
    """
    colors = list(_chosen_colors())
    for index in range(len(colors), classes):
        # Steps of the golden angle never fall together, in three shades.
        colors.append(_hsv(index * 0.618034 % 1.0, 0.7, (0.95, 0.75, 0.55)[index % 3]))
    return np.array(colors[:classes], dtype=np.uint8)


@lru_cache(maxsize=1)
def _chosen_colors() -> tuple[tuple[int, ...], ...]:
    """Black, Okabe and Ito's, and of many others always the one that is farthest from all before.

    Distances are those of Oklab (Ottosson, 2020), which follow what people see. White is left to
    what is no class.
    """
    colors = [(0, 0, 0), *(tuple(bytes.fromhex(code)) for code in _OKABE_ITO)]
    candidates = [
        _hsv(hue / 36, saturation, value)
        for hue in range(36)
        for saturation in (0.35, 0.65, 0.95)
        for value in (0.45, 0.7, 0.95)
    ]
    places = _oklab(candidates)
    nearest = np.full(len(candidates), np.inf)
    for seen in _oklab([*colors, (255, 255, 255)]):
        nearest = np.minimum(nearest, np.linalg.norm(places - seen, axis=1))
    while len(colors) < _CHOSEN:
        farthest = int(nearest.argmax())
        colors.append(candidates[farthest])
        distances = np.linalg.norm(places - places[farthest], axis=1)
        nearest = np.minimum(nearest, distances)
    return tuple(colors)


def _hsv(hue: float, saturation: float, value: float) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))


def _oklab(colors: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
    """sRGB -> lightness and two axes of colour."""
    srgb = np.array(colors) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(linear @ np.array(_TO_CONES).T)
    return np.asarray(cones @ np.array(_TO_LAB).T)


def write_mask(path: str | os.PathLike[str], mask: Tensor, *, classes: int) -> Path:
    """Write a mask as a PNG whose pixel values are the classes.

    Up to 256 classes the file has a palette (:func:`class_colors`), so that it is legible as it
    is; above that it has 16 bit grey values.

    Args:
        path: Path of the PNG; its folder must exist.
        mask: ``(H, W)`` of integers below ``classes``.
        classes: How many there are, 2 to 65536.

    Raises:
        StorageError: The file cannot be written.
    """
    return _write(path, encode_mask(mask.cpu().numpy(), classes=classes))


def encode_mask(mask: NDArray[np.integer], *, classes: int) -> bytes:
    """The bytes of the file of :func:`write_mask`."""
    if classes > 256:
        return encode_png(mask.astype(np.uint16, copy=False))
    palette = class_colors(classes).tobytes()
    return encode_png(mask.astype(np.uint8, copy=False), palette=palette)


def write_overlay(
    path: str | os.PathLike[str], picture: Tensor, mask: Tensor, *, opacity: float = 0.4
) -> Path:
    """Write a picture with its mask laid over it: classes tinted, their borders drawn in full.

    Class 0 is left as it is: in most sets of classes it is the background.

    Args:
        path: Path of the PNG; its folder must exist.
        picture: ``(C, H, W)`` as :func:`read_picture` gives it. Of other bands than grey and RGB
            the first three are shown.
        mask: ``(H, W)`` of integers.
        opacity: Opacity of the tint, 0 to 1.

    Raises:
        StorageError: The file cannot be written.
    """
    return _write(path, encode_png(overlay(picture, mask, opacity=opacity)))


def overlay(picture: Tensor, mask: Tensor, *, opacity: float = 0.4) -> NDArray[np.uint8]:
    """The pixels ``(H, W, 3)`` of :func:`write_overlay`."""
    shown = picture[:3] if picture.shape[0] > 2 else picture[:1].expand(3, -1, -1)
    labels = mask.cpu().numpy()
    borders = _borders(labels)
    planes = shown.cpu().numpy()
    last = int(labels.max())
    if picture.dtype == torch.uint8 and last < _TABLED:
        return _looked_up(planes, labels, borders, _tinted(1 << last.bit_length(), opacity))
    rgb = planes.transpose(1, 2, 0).astype(np.float32)
    if picture.dtype == torch.uint16:
        rgb *= 255 / max(float(rgb.max()), 1.0)  # sensors rarely use all 16 bits
    elif picture.is_floating_point():
        rgb = (rgb * 255).clip(0, 255)
    tint = class_colors(last + 1)[labels]
    weight = np.where(borders, 1.0, opacity) * (labels > 0)
    return _mixed(rgb, tint, weight[..., None])


def _mixed(
    rgb: NDArray[np.float32], tint: NDArray[np.uint8], weight: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """So much of the tint over the colours."""
    mixed = rgb + weight.astype(np.float32) * (tint - rgb)
    return np.asarray(mixed.round().astype(np.uint8))


def _looked_up(
    planes: NDArray[np.uint8],
    labels: NDArray[np.integer],
    borders: NDArray[np.bool_],
    table: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """The overlay of 8 bits: what each class makes of each value is in a table."""
    # The place of value 0, in the half for borders or in the other; in as few bytes as it needs.
    kind = np.uint16 if table.shape[1] <= 1 << 16 else np.uint32
    places = (labels.astype(kind) << 8) + borders * kind(table.shape[1] // 2)
    mixed = np.empty((*labels.shape, 3), np.uint8)
    for band, plane in enumerate(planes):
        mixed[..., band] = table[band].take(places + plane)
    return mixed


@lru_cache(maxsize=8)
def _tinted(classes: int, opacity: float) -> NDArray[np.uint8]:
    """What becomes of a value: ``(3, 2 * classes * 256)``, by colour; border, class and value."""
    values = np.arange(256, dtype=np.float32)
    tints = class_colors(classes).T[:, None, :, None]
    weight = np.array([opacity, 1.0])[:, None, None] * (np.arange(classes) > 0)[:, None]
    return _mixed(values, tints, weight).reshape(3, -1)


def _borders(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels with a neighbour of another class to the left, right, above or below."""
    border = np.zeros(labels.shape, dtype=bool)
    below, beside = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    border[1:] |= below
    border[:-1] |= below
    border[:, 1:] |= beside
    border[:, :-1] |= beside
    return border


def _write(path: str | os.PathLike[str], content: bytes) -> Path:
    target = Path(path)
    try:
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"{target} could not be written: {error}. Nothing half written is left."
        ) from error
    return target
