"""Picture files, read into a tensor.

Reading is Pillow's; what is here decides what the bands of a file mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Pillow's mode of a file -> the mode to read it in; others are read in their own.
_READ_AS = {
    "1": "L",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
}
#: ITU-R BT.601 in units of 1/65536, the integers that Pillow uses.
_LUMA = (19595, 38470, 7471)


def find_pictures(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The picture files that paths stand for, each once, in the order given.

    A folder stands for the files in it whose ending is that of a picture format, sorted by name;
    its subfolders are not looked into.

    Raises:
        InputError: A path that does not exist, or a folder without pictures.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(item for item in path.iterdir() if _is_picture(item))
            if not files:
                raise InputError(f"There are no pictures in the folder {path}.")
        elif path.exists():
            files = [path]
        else:
            raise InputError(f"There is no file {path}.")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _is_picture(path: Path) -> bool:
    kind = Image.registered_extensions().get(path.suffix.lower())
    return kind in Image.OPEN and not path.name.startswith(".") and path.is_file()


def read_picture(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture file, turned upright where its EXIF data says so.

    Args:
        path: PNG, JPEG, TIFF, WebP, BMP, ... whatever Pillow opens, with one picture in it.

    Returns:
        ``(C, H, W)``: 1 band (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha); uint16 for 16 bit
        grey values, else uint8. Palettes, CMYK, YCbCr and the like become RGB.

    Raises:
        InputError: The file cannot be read, or holds several pictures or values of another kind.
    """
    values = _read(path, _READ_AS)
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def read_stored(path: str | os.PathLike[str]) -> Tensor:
    """Read the values as they stand in a file: of a palette the numbers, not the colours.

    Returns:
        ``(C, H, W)``, of the file's own integers.

    Raises:
        InputError: The file cannot be read.
    """
    values = _read(path, {"1": "L"})
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def read_mask(path: str | os.PathLike[str]) -> Tensor:
    """Read a mask: the values as they stand in the file, palette or not.

    Returns:
        ``(H, W)``, int64.

    Raises:
        InputError: The file cannot be read, or has more than one value for each pixel.
    """
    values = _read(path, {"1": "L"})
    if values.ndim != 2:
        raise InputError(
            f"{os.fspath(path)} has {values.shape[2]} bands. A mask has one: grey values or a "
            "palette, a value for each class."
        )
    return torch.from_numpy(values.astype(np.int64))


def _read(path: str | os.PathLike[str], read_as: Mapping[str, str]) -> NDArray[np.generic]:
    """The pixels of a file, ``(H, W)`` or ``(H, W, C)``, as uint8 or uint16."""
    try:
        with Image.open(path) as file:
            # A phone's MPO is one photograph with previews behind it.
            pages = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
            if pages > 1:
                raise InputError(
                    f"{os.fspath(path)} holds {pages} pictures. Save the one you mean as a file "
                    "of its own."
                )
            image = ImageOps.exif_transpose(file)
            mode = read_as.get(image.mode, image.mode)
            if mode == "RGB" and image.has_transparency_data:
                mode = "RGBA"  # a palette with transparent entries
            values = np.array(image if image.mode == mode else image.convert(mode))
    except InputError:
        raise
    except Exception as error:
        # Pillow's decoders fail in many ways on a damaged file, not only with OSError.
        reason = str(error) or type(error).__name__
        raise InputError(f"{os.fspath(path)} cannot be read as a picture: {reason}.") from error
    if values.dtype == np.int32 and values.min() >= 0 and values.max() <= 65535:
        values = values.astype(np.uint16)  # 16 bit files that Pillow opens with 32
    # Big-endian files keep their byte order in Pillow; torch takes the machine's only.
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{os.fspath(path)} has {values.dtype} values (mode {image.mode}); save it with 8 or "
            "16 bits."
        )
    return values


def to_bands(picture: Tensor, bands: int) -> Tensor:
    """A picture of :func:`read_picture` with the bands that a model takes.

    Grey values are repeated for RGB; RGB becomes its luminance (ITU-R BT.601); alpha is left out
    where the model has no band for it.

    Args:
        picture: ``(C, H, W)`` with 1 to 4 bands.
        bands: What the model takes.

    Returns:
        ``(bands, H, W)`` of the same dtype.

    Raises:
        InputError: Nothing tells what the missing bands should be.
    """
    given = picture.shape[0]
    if given == bands:
        return picture
    if given in (2, 4) and bands in (1, 3):
        return to_bands(picture[: given - 1], bands)
    if given == 1 and bands == 3:
        return picture.expand(3, -1, -1)
    if given == 3 and bands == 1:
        weights = torch.tensor(_LUMA, device=picture.device)[:, None, None]
        luma = (picture.long() * weights).sum(dim=0, keepdim=True)
        return ((luma + 0x8000) >> 16).to(picture.dtype)
    raise InputError(
        f"The picture has {given} bands and the model takes {bands}; nothing tells which is which."
    )
