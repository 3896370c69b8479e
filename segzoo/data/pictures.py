"""Picture files, read into a tensor; what is a picture file, and what its bands mean.

Reading is :mod:`segzoo.data.raster`'s: every door has the same rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..files.local import closed, is_folder, is_there
from .lossy import lossy_format, refuse_lossy
from .pixel_values import check_band_numbers, check_range, choose_bands, read_pixels
from .raster import MAX_PIXELS, open_raster, read_whole
from .readers.with_pillow import FORMATS, check_pixels

#: Pillow's names of the formats that are read. A phone's MPO is a JPEG with previews behind it.
KINDS = frozenset({*FORMATS, "MPO"})
#: ITU-R BT.601 in units of 1/65536, the integers that Pillow uses.
_LUMA = (19595, 38470, 7471)


def find_pictures(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The picture files that paths stand for, each once, in the order given.

    A folder stands for the files in it whose ending is that of a picture format, sorted by name;
    its subfolders are not looked into.

    Raises:
        InputError: A path that does not exist, or a folder without pictures or that cannot be read.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if is_folder(path):
            files = _pictures_in(path)
            if not files:
                raise InputError(f"There are no pictures in the folder {path}.")
        elif is_there(path):
            files = [(path, os.path.realpath(path))]
        else:
            raise InputError(f"There is no file {path}.")
        for file, place in files:
            found.setdefault(place, file)
    return list(found.values())


def _pictures_in(folder: Path) -> list[tuple[Path, str]]:
    """The pictures of a folder by name, each with the place where it really lies.

    Of a million files the folder itself says which are links: only these are followed.
    """
    found = []
    real = Path(os.path.realpath(folder))
    try:
        entries = os.scandir(folder)
    except OSError as error:
        raise InputError(closed(folder, error)) from error
    with entries:
        for entry in entries:
            if entry.name.startswith(".") or not is_picture_name(entry.name):
                continue
            path = folder / entry.name
            if entry.is_file(follow_symlinks=False):
                found.append((path, str(real / entry.name)))
            elif path.is_file():
                found.append((path, os.path.realpath(path)))
    return sorted(found)


def is_picture_name(name: str) -> bool:
    """Whether a name ends like that of a format that is read."""
    return Image.registered_extensions().get(Path(name).suffix.lower()) in KINDS


def read_picture(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Read a picture file, turned upright where its EXIF data says so.

    Args:
        path: A file that :func:`segzoo.data.raster.open_raster` opens, with one picture in it.
        bands: The bands to read, counted from 1, in this order; None for all.
        value_range: The values that become 0 and 1, for types that do not tell: signed and real
            numbers, and more than 16 bits.
        max_pixels: The largest picture that is decoded.

    Returns:
        ``(C, H, W)``: 1 band (grey), 2 (grey, alpha), 3 (RGB), 4 (RGB, alpha) or what a TIFF file
        has; uint8, uint16 for values of 16 bits, or float32 with a ``value_range``. Palettes, CMYK,
        YCbCr and the like become RGB.

    Raises:
        InputError: The file cannot be read, or holds several pictures or values of another kind.
        ArgumentError: ``bands`` or ``value_range`` cannot work.
    """
    chosen, bounds = check_band_numbers(bands), check_range(value_range)
    with open_raster(path, max_pixels=max_pixels) as raster:
        info = raster.info
        check_pixels(info.path, (info.width, info.height), max_pixels, info.bands)
        numbers = choose_bands(raster.info, chosen, len(chosen) if chosen else raster.info.bands)
        return read_pixels(raster, numbers, bounds)


def read_stored(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read the values as they stand in a file: of a palette the numbers, not the colours.

    Returns:
        ``(C, H, W)``, of the file's own type.

    Raises:
        InputError: The file cannot be read.
    """
    with open_raster(path, raw=True, max_pixels=max_pixels) as raster:
        return torch.from_numpy(np.ascontiguousarray(read_whole(raster, max_pixels)))


def read_mask(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a mask: the values as they stand in the file, palette or not; 1 bit is 0 and 1.

    Three equal bands are one.

    Returns:
        ``(H, W)``, int64.

    Raises:
        InputError: The file cannot be read, has more than one value for each pixel, or values that
            are no whole numbers; or its format does not keep values exactly.
    """
    refuse_lossy(lossy_format(Path(path)))
    with open_raster(path, raw=True, max_pixels=max_pixels) as raster:
        info = raster.info
        values = read_whole(raster, max_pixels)
        if info.bands == 3 and (values[1:] == values[:1]).all():
            values = values[:1]
        if values.shape[0] != 1:
            raise InputError(
                f"{os.fspath(path)} has {info.bands} bands. A mask has one: grey values or a "
                "palette, a value for each class."
            )
        if info.dtype.kind not in "ui":
            raise InputError(
                f"{os.fspath(path)} has {info.dtype} values. A mask has whole numbers, one for "
                "each class."
            )
        return torch.from_numpy(values[0].astype(np.int64))


def read_for_bands(path: str | os.PathLike[str], bands: int) -> Tensor:
    """A picture of :func:`read_picture` with the bands that a model takes, see :func:`to_bands`.

    Raises:
        InputError: The file cannot be read, or nothing tells which of its bands are meant.
    """
    with open_raster(path) as raster:
        info = raster.info
        check_pixels(info.path, (info.width, info.height), MAX_PIXELS, info.bands)
        picture = read_pixels(raster, range(1, info.bands + 1))
        return to_bands(picture, bands, alpha=info.alpha)


def to_bands(picture: Tensor, bands: int, *, alpha: bool = False) -> Tensor:
    """A picture with the bands that a model takes.

    Grey values are repeated for RGB; RGB becomes its luminance (ITU-R BT.601); alpha is left out
    where the model has no band for it. No other band is.

    Args:
        picture: ``(C, H, W)``.
        bands: What the model takes.
        alpha: Whether the last band is opacity: of four, it may as well be infrared.

    Returns:
        ``(bands, H, W)`` of the same dtype.

    Raises:
        InputError: Nothing tells what the missing bands should be.
    """
    given = picture.shape[0]
    if given == bands:
        return picture
    if alpha:
        return to_bands(picture[: given - 1], bands)
    if given == 1 and bands == 3:
        return picture.expand(3, -1, -1)
    if given == 3 and bands == 1:
        weights = torch.tensor(_LUMA, device=picture.device)[:, None, None]
        if picture.is_floating_point():
            return (picture * weights).sum(dim=0, keepdim=True) / 65536
        luma = (picture.long() * weights).sum(dim=0, keepdim=True)
        return ((luma + 0x8000) >> 16).to(picture.dtype)
    raise InputError(
        f"The picture has {given} bands and the model takes {bands}; nothing tells which is which."
    )
