"""Rows of a table with a picture and a mask each, as Hugging Face ``datasets`` has them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .. import checks
from ..errors import DataError, InputError, nearest
from .class_coding import LabelMap, class_coding
from .dataset import SAME_PIXELS, different_sizes, fit_bands
from .faults import PairError
from .lossy import lossy_bytes, lossy_format, refuse_lossy
from .pixel_values import read_pixels
from .raster import MAX_PIXELS, open_raster, read_whole
from .readers.with_pillow import check_pixels

#: Modes of Pillow whose numbers are the picture's; others become RGB.
_AS_THEY_ARE = frozenset({"L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L"})
#: What to do about bands that nobody chose.
_CUT = "Cut the rows' pictures to the bands that you mean, or pass channels= another number."


class Rows(Protocol):
    """A table: a length, and rows that are mappings."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """A row: column -> value."""


class RowsDataset:
    """A split of Hugging Face ``datasets``, or any table of rows, as data to train on.

    ::

        rows = datasets.load_dataset("segments/sidewalk-semantic")["train"]
        data = segzoo.DataSplits.of(
            segzoo.RowsDataset(rows, image="pixel_values", mask="label", classes=35)
        )

    Args:
        rows: Anything with a length and rows that are mappings.
        image: Name of the column with pictures: Pillow's images, arrays ``(H, W)`` or
            ``(H, W, C)``, tensors ``(C, H, W)``, paths, or ``{"bytes": ...}``.
        mask: Name of the column with masks, the same kinds; of palettes the numbers are taken.
        classes: See :func:`segzoo.open_data`, as for the next three.
        palette: The colour of each class, for coloured masks.
        label_map: Old value -> class.
        ignore_index: The value of void.
        channels: How many bands an item has: grey is repeated, alpha left out (of arrays and
            tensors nothing tells which band that is: cut it off); None for what each picture has.

    Attributes:
        coding: How the values of masks become classes.
        class_names: One for each class, or None.
        palette: A colour for each class, or None.

    Raises:
        DataError: No such column.
        ArgumentError: Arguments that do not go together.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        image: str = "image",
        mask: str = "annotation",
        classes: int | Sequence[str] | str | os.PathLike[str] | None = None,
        palette: Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str] | None = None,
        label_map: LabelMap | None = None,
        ignore_index: int | None = None,
        channels: int | None = 3,
    ) -> None:
        if channels is not None:
            checks.integer("channels", channels, minimum=1, maximum=4096)
        self.rows, self.image, self.mask, self.channels = rows, image, mask, channels
        told = class_coding(
            classes=classes, palette=palette, label_map=label_map, ignore_index=ignore_index
        )
        self.coding, self.class_names, self.palette = told.coding, told.names, told.colors
        if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            raise DataError(f"rows must be a table: a length and rows; got {checks.shown(rows)}.")
        checks.text("image", image, longest=4096)
        checks.text("mask", mask, longest=4096)
        first = rows[0] if len(rows) else {image: None, mask: None}
        if not isinstance(first, Mapping):
            raise DataError(f"A row must map columns to values, got {checks.shown(first)}.")
        known = list(map(str, first))
        for column in (image, mask):
            if column not in known:
                raise DataError(
                    f"There is no column {column!r}.{nearest(column, known)} The columns are "
                    f"{', '.join(known)}; pass image= and mask=, the names of two of them."
                )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """The picture ``(C, H, W)`` and the mask ``(H, W)``, int64.

        Raises:
            DataError: Sizes that differ, or a mask with values that are no class.
            InputError: A picture or mask that cannot be read.
        """
        row = self.rows[index]
        try:
            picture, alpha = _read(row[self.image], stored=False)
            image = fit_bands(picture, self.channels, alpha=alpha, remedy=_CUT)
            refuse_lossy(_lossy(row[self.mask]))
            colors = self.coding.colors is not None
            mask = self.coding.decode(picture_values(row[self.mask], stored=not colors))
            if image.shape[1:] != mask.shape:
                raise PairError("size", different_sizes(image, mask), SAME_PIXELS)
        except PairError as error:
            raise error.of(f"row {index}") from None
        except InputError as error:
            raise InputError(f"row {index}: {error}") from error
        return image, mask


def _lossy(value: Any) -> str | None:
    """The format of a mask, if that does not keep exact values."""
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return lossy_bytes(value["bytes"])
        value = value.get("path")
    if isinstance(value, (str, os.PathLike)):
        return lossy_format(Path(value))
    kind = str(getattr(value, "format", None))
    return {"JPEG": "JPEG", "MPO": "JPEG", "AVIF": "AVIF or HEIC"}.get(kind)


def picture_values(value: Any, *, stored: bool = False) -> Tensor:
    """A picture in any of the usual kinds as ``(C, H, W)``.

    Args:
        value: Of Pillow, an array, a tensor, a path or ``{"bytes": ...}``.
        stored: Take the numbers of a palette, not its colours.

    Raises:
        InputError: Something else.
    """
    return _read(value, stored=stored)[0]


def _read(value: Any, *, stored: bool) -> tuple[Tensor, bool]:
    """The same, and whether its last band is known to be opacity."""
    if isinstance(value, Tensor):
        return _planes(value, value if value.ndim == 3 else value[None]), False
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "buif":
            raise InputError(
                f"An array of {value.dtype} is no picture; give whole or real numbers."
            )
        planes = value[None] if value.ndim != 3 else value.transpose(2, 0, 1)
        return _planes(value, torch.from_numpy(np.ascontiguousarray(planes))), False
    if isinstance(value, Mapping) and value.get("bytes") is not None:
        return _of_bytes(value["bytes"], stored)
    if isinstance(value, Mapping):
        value = value.get("path")
    if isinstance(value, (str, os.PathLike)):
        return _of_file(value, stored)
    if isinstance(value, Image.Image):
        return _image_values(value, stored)
    raise InputError(
        f"{checks.shown(value)} is no picture; give an image of Pillow, an array, a tensor or a "
        "path."
    )


def _planes(value: Any, planes: Tensor) -> Tensor:
    """The planes that were made of an array or a tensor, if it has two or three axes."""
    if value.ndim not in (2, 3):
        raise InputError(
            f"Values of the shape {tuple(value.shape)} are no picture; give (H, W), arrays "
            "(H, W, C), or tensors (C, H, W)."
        )
    return planes


def _of_bytes(data: Any, stored: bool) -> tuple[Tensor, bool]:
    """A picture file's content, by the rules of files: nothing is cut, one picture only."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(f"{checks.shown(data)} are no bytes of a picture file.")
    return _of_file(bytes(data), stored)


def _of_file(source: str | os.PathLike[str] | bytes, stored: bool) -> tuple[Tensor, bool]:
    with open_raster(source, raw=stored) as raster:
        info = raster.info
        if stored:
            return torch.from_numpy(np.ascontiguousarray(read_whole(raster))), info.alpha
        check_pixels(info.path, (info.width, info.height), MAX_PIXELS, info.bands)
        return read_pixels(raster, range(1, info.bands + 1)), info.alpha


def _image_values(image: Image.Image, stored: bool) -> tuple[Tensor, bool]:
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "1":
        upright = upright if stored else upright.convert("L")
    elif upright.mode not in _AS_THEY_ARE and not (stored and upright.mode == "P"):
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    values = np.array(upright)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    values = values.astype(values.dtype.newbyteorder("="))
    return picture_values(values), upright.mode.endswith("A")
