"""Tensors of a safetensors file of any library: the header is read, and values when they are asked.

What segzoo saves is read by ``storage/safetensors_file.py``, which knows the model that it is for.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import StorageError
from . import strict_json
from .atomic import open_ordinary
from .stored import Source, Stored, check_shape

#: A header of 5000 tensors takes half a MiB; that of a large model with its metadata a few.
_MAX_HEADER_BYTES = 16 * 2**20
#: Names of types; those of 8 bits and less are known, so that a message can name them.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def open_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of a file by name, none of them read yet.

    Raises:
        StorageError: The file is damaged, or cannot be read.
    """
    try:
        source = Source(path)
        with open_ordinary(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(source.size - 8, _MAX_HEADER_BYTES):
                raise ValueError(f"its header has {length} bytes, {_MAX_HEADER_BYTES} at most")
            header = strict_json.parse(file.read(length).decode("utf-8"))
        return _tensors(header, source, 8 + length)
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{path} is damaged, or no safetensors file: {error}. Download or save it again."
        ) from error


def _tensors(header: Mapping[str, Any], source: Source, start: int) -> dict[str, Stored]:
    """The entries of a header, whose data must lie one behind the other and fill the file."""
    found: dict[str, Stored] = {}
    places: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError("a tensor must have exactly dtype, shape and data_offsets")
        dtype, shape = _DTYPES.get(str(entry["dtype"])[:16]), check_shape(entry["shape"])
        if dtype is None:
            raise ValueError(f"{str(entry['dtype'])[:16]!r} is no type that is known here")
        offsets = entry["data_offsets"]
        if not isinstance(offsets, list) or [type(item) for item in offsets] != [int, int]:
            raise ValueError("data_offsets must be begin and end")
        read = functools.partial(_read, source, start + offsets[0], shape, dtype)
        found[name] = Stored(dtype, shape, read)
        if offsets[1] - offsets[0] != found[name].nbytes:
            raise ValueError("a tensor has not the bytes that its shape needs")
        places.append((offsets[0], offsets[1]))
    end = 0
    for begin, behind in sorted(places):
        if begin != end:
            raise ValueError("its tensors overlap, or leave gaps")
        end = behind
    if start + end != source.size:
        raise ValueError(f"it has {source.size} bytes, its tensors need {start + end}")
    return found


def _read(source: Source, begin: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = 1
    for side in shape:
        count *= side
    return source.values(begin, count, dtype).reshape(shape)
