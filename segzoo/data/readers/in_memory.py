"""Arrays, tensors and objects of a person's own, behind the face of a raster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from .face import Raster, RasterInfo, Values, native


@runtime_checkable
class WindowSource(Protocol):
    """What a picture can be read from, window by window."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(bands, height, width)``."""

    def read(self, rows: slice, columns: slice) -> Values | Tensor:
        """The values of a window, ``(bands, rows, columns)``."""


class ArrayRaster(Raster):
    """An array or tensor ``(C, H, W)``, or anything that gives windows of one.

    Args:
        source: Where windows come from.
        nodata: The value of pixels that are not known, or None.
        name: For messages.
    """

    def __init__(self, source: WindowSource, *, nodata: float | None, name: str) -> None:
        self._source = source
        if len(source.shape) != 3:
            raise InputError(
                f"{name} has the shape {tuple(source.shape)}; expected (bands, height, width)."
            )
        bands, height, width = (int(side) for side in source.shape)
        if min(bands, height, width) < 1:
            raise InputError(f"{name} is empty: its shape is {tuple(source.shape)}.")
        dtype = _values(source.read(slice(0, 1), slice(0, 1))).dtype
        if dtype.kind not in "uif":
            raise InputError(f"{name} has values of {dtype}; expected whole or real numbers.")
        self.info = RasterInfo(
            path=Path(name),
            height=height,
            width=width,
            bands=bands,
            dtype=dtype.newbyteorder("="),
            bits=dtype.itemsize * 8,
            nodata=nodata,
        )

    def _read(self, top: int, bottom: int, left: int, right: int) -> Values:
        return native(_values(self._source.read(slice(top, bottom), slice(left, right))))

    def close(self) -> None:
        """Nothing: the source is its owner's."""


class _Windows:
    """An array that is there whole, or a memory map of one."""

    def __init__(self, values: Any) -> None:
        self._values = values
        self.shape: tuple[int, int, int] = tuple(values.shape)

    def read(self, rows: slice, columns: slice) -> Any:
        return self._values[:, rows, columns]


def from_array(values: Any, *, nodata: float | None) -> Raster:
    """A raster of an array or tensor ``(C, H, W)``.

    Raises:
        InputError: Another number of dimensions, or values that are no numbers.
    """
    if values.ndim != 3:
        raise InputError(f"Expected a picture (C, H, W), got the shape {tuple(values.shape)}.")
    name = "the tensor" if isinstance(values, Tensor) else "the array"
    return ArrayRaster(_Windows(values), nodata=nodata, name=name)


def _values(window: Any) -> Values:
    if isinstance(window, Tensor):
        tensor = window.detach().cpu()
        return np.asarray((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())
    return np.asarray(window)
