"""Where results go: an array, a file, or an object of a person's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ...data.drawing import class_colors, write_mask
from ...data.raster import MAX_PIXELS
from ...data.readers.face import Georeference, Values
from ...errors import ArgumentError, StorageError
from ...files.atomic import check_file, replacing
from ...files.local import is_there
from ...packages import load_package
from .answers import Answers
from .geotiff import write_geotiff, write_plain_tiff

#: Finished bands from top to bottom, with the row that each begins with.
Finished = Iterator[tuple[int, Values]]
#: Bytes of a file for each byte of its values; masks shrink to far less than this.
_SHRUNK = {"classes": 0.25, "probabilities": 1.0, "logits": 1.0}


@runtime_checkable
class Sink(Protocol):
    """What takes results, band by band."""

    def write(self, rows: slice, values: Values) -> None:
        """Take the values of some rows, ``(rows, width)`` or ``(channels, rows, width)``."""

    def close(self) -> None:
        """All is written."""


@dataclass(frozen=True)
class Result:
    """What is written.

    Args:
        answers: Kind and type of the values.
        height: Rows.
        width: Columns.
        classes: Classes that a mask may have.
        class_names: Their names, or None.
        georeference: Where it lies on the ground, or None.
    """

    answers: Answers
    height: int
    width: int
    classes: int
    class_names: tuple[str, ...] | None
    georeference: Georeference | None


def _npy(path: Path, result: Result, bands: Finished) -> None:
    answers = result.answers
    shape: tuple[int, ...] = (result.height, result.width)
    shape = (answers.channels, *shape) if answers.channels else shape
    kind = np.dtype(answers.dtype)
    head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    # Written, not mapped: where a disk is full, mapped pages end the program.
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, head)
        begin = file.tell()
        for top, values in bands:
            planes = values if answers.channels else values[None]
            for index, plane in enumerate(planes):
                file.seek(begin + (index * result.height + top) * result.width * kind.itemsize)
                file.write(np.ascontiguousarray(plane, kind).data)


def _png(path: Path, result: Result, bands: Finished) -> None:
    mask = result.answers.empty(result.height, result.width)
    for top, values in bands:
        mask[top : top + values.shape[0]] = values
    # Unknown pixels have a value of their own, so the palette needs a place for it.
    unknown = int(result.answers.nodata)
    classes = unknown + 1 if bool((mask == unknown).any()) else result.classes
    write_mask(path, torch.from_numpy(mask.astype(np.int32)), classes=classes)


def _tiff(path: Path, result: Result, bands: Finished) -> None:
    answers = result.answers
    colors = None
    if answers.kind == "classes" and answers.dtype == "uint8":
        colors = class_colors(result.classes)
    shape = (max(answers.channels, 1), result.height, result.width)
    planes = ((top, values.reshape(shape[0], -1, result.width)) for top, values in bands)
    names = result.class_names if answers.kind == "classes" else None
    labels = (
        [answers.kind]
        if names or not answers.channels
        else [
            f"{answers.kind} of {name}"
            for name in result.class_names or [f"class {i}" for i in range(answers.channels)]
        ]
    )
    if result.georeference is None:
        write_plain_tiff(path, planes, shape, answers.dtype, colors=colors)
        return
    write_geotiff(
        path,
        planes,
        shape,
        answers.dtype,
        georeference=result.georeference,
        nodata=answers.nodata,
        colors=colors,
        class_names=names,
        labels=labels,
        by_mode=answers.kind == "classes",
    )


_WRITERS: dict[str, Callable[[Path, Result, Finished], None]] = {
    ".tif": _tiff,
    ".tiff": _tiff,
    ".png": _png,
    ".npy": _npy,
}


def check_target(path: Path, result: Result, *, overwrite: bool) -> None:
    """Raise before anything is computed where a result could not be written.

    Raises:
        ArgumentError: An ending that nothing writes, values that the format does not hold, or a
            file that exists already.
        StorageError: There is no such folder, or no space in it.
        MissingPackageError: The format needs a package that is not installed.
    """
    answers = result.answers
    if path.suffix.lower() not in _WRITERS:
        raise ArgumentError(
            f"{path} ends in {path.suffix!r}; results are written as {', '.join(_WRITERS)}."
        )
    if path.suffix.lower() == ".png":
        if answers.kind != "classes":
            raise ArgumentError(f"A PNG holds classes, not {answers.kind}: write .tif or .npy.")
        if result.height * result.width > MAX_PIXELS:
            raise ArgumentError(
                f"A mask of {result.height}x{result.width} pixels is too large for a PNG, which is "
                "written as a whole: write .tif or .npy."
            )
    if path.suffix.lower().startswith(".tif"):
        located = result.georeference is not None
        load_package("rasterio" if located else "tifffile", extra="geo" if located else "tiff")
    if is_there(path) and not overwrite:
        raise ArgumentError(
            f"{path} exists already. Choose another file, or replace it: overwrite=True, "
            "--overwrite."
        )
    check_file(path)
    # Bands are kept until the whole file is there, so for a moment both are.
    needed = int(2 * answers.bytes_for(result.height, result.width) * _SHRUNK[answers.kind])
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StorageError(
            f"{path} needs about {needed / 1e9:.1f} GB with its parts, and {path.parent} has "
            f"{free / 1e9:.1f} GB. Write classes instead of {answers.kind}, or elsewhere."
            if answers.kind != "classes"
            else f"{path} may need {needed / 1e9:.1f} GB with its parts, and {path.parent} has "
            f"{free / 1e9:.1f} GB. Make room, or write elsewhere."
        )


def write_file(path: Path, result: Result, bands: Finished) -> None:
    """Write a whole result in one step: under another name, then renamed.

    Raises:
        StorageError: It could not be written; what was there stays.
        MissingPackageError: The format needs a package that is not installed.
    """
    try:
        with replacing(path) as temporary:
            _WRITERS[path.suffix.lower()](temporary, result, bands)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error}.") from error
