"""A tensor that lies in a file: all that is known of it before its values are read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import checks
from ..errors import StorageError
from .atomic import open_ordinary

#: How many times larger than what there is of its values a tensor may be: some are repeated.
SHARING, SLACK = 4, 2**20
#: Most values of one tensor: far above any layer, and such that sizes in bytes stay exact.
_MAX_VALUES = 2**48


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor somewhere: its type, its shape, and how its values are had.

    Attributes:
        dtype: Its type.
        shape: Its shape.
        read: Its values, dense, in memory of their own.
        place: Where its values lie: tensors of one type, shape and place are the same. None where
            that is not known.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    place: Hashable = None

    @property
    def identity(self) -> Hashable:
        """The same for two that are one tensor."""
        return id(self) if self.place is None else (self.dtype, self.shape, self.place)

    @property
    def nbytes(self) -> int:
        """The memory that its values take."""
        return math.prod(self.shape) * self.dtype.itemsize

    def on_meta(self) -> Tensor:
        """A tensor without values, to plan with.

        Raises:
            StorageError: No memory could hold its shape.
        """
        try:
            return torch.empty(self.shape, dtype=self.dtype, device="meta")
        except (RuntimeError, OverflowError) as error:
            raise StorageError(
                f"A tensor claims the shape {checks.shown(self.shape)}, which no memory could hold."
            ) from error


def in_memory(tensor: Tensor, name: str) -> Stored:
    """A tensor that is there already; reading copies it to the CPU.

    Raises:
        ValueError: It is no dense tensor with values.
    """
    if tensor.is_meta:
        raise ValueError(f"{name!r} is on the meta device, where it has no values")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"{name!r} is a sparse or quantised tensor; give dense ones")
    check_shape(tuple(tensor.shape))
    try:
        there = tensor.untyped_storage().nbytes()
    # torch raises either, by version, for a subclass that holds other tensors and no memory.
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{name!r} is a {type(tensor).__name__}, no plain tensor") from error
    if tensor.nbytes > SHARING * there + SLACK:
        raise ValueError(f"{name!r} uses the same values over and over")

    def read() -> Tensor:
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        with torch.no_grad():
            copy.copy_(tensor.detach())
        return copy

    # A state dict that is made anew has other tensors on the same memory.
    place = (tensor.device, tensor.data_ptr(), tensor.stride())
    return Stored(tensor.dtype, tuple(tensor.shape), read, place)


def check_shape(shape: object) -> tuple[int, ...]:
    """A shape from a file.

    Raises:
        ValueError: It is none.
    """
    sides = check_lengths(shape)
    if math.prod(max(side, 1) for side in sides) > _MAX_VALUES:
        raise ValueError("a tensor has more values than there can be")
    return sides


def check_lengths(lengths: object) -> tuple[int, ...]:
    """The sides of a shape, or the steps from one value to the next along each, from a file.

    Raises:
        ValueError: They are no lengths.
    """
    if not isinstance(lengths, (list, tuple)) or len(lengths) > 64:
        raise ValueError("a shape is no list of lengths")
    if not all(type(side) is int and 0 <= side <= _MAX_VALUES for side in lengths):
        raise ValueError("a shape is no list of lengths")
    return tuple(lengths)


class Source:
    """A file that parts are read from, as long as it is the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_ordinary(path) as file:
            status = os.fstat(file.fileno())
        self.size = status.st_size
        self._identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)

    def values(self, begin: int, count: int, dtype: torch.dtype) -> Tensor:
        """``count`` values from byte ``begin`` on, in memory of their own.

        Raises:
            StorageError: The file is another one by now, ends too early, or cannot be read.
        """
        tensor = torch.empty(count, dtype=dtype, device="cpu")  # whatever the default is
        if count == 0:
            return tensor
        buffer = bytes_of(tensor)
        try:
            with open_ordinary(self.path) as file:
                status = os.fstat(file.fileno())
                found = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
                if found != self._identity:
                    raise StorageError(f"{self.path} changed while it was read; open it again.")
                file.seek(begin)
                if file.readinto(buffer) != len(buffer):
                    raise StorageError(f"{self.path} ends too early. Download or save it again.")
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"{self.path} cannot be read: {error}.") from error
        return tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a dense tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def extent(shape: Sequence[int], stride: Sequence[int]) -> int:
    """How many values lie between a tensor's first and its last, both counted."""
    if 0 in shape:
        return 0
    return 1 + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
