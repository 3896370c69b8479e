"""``model.safetensors``: written whole, and read with suspicion.

A file may come from a stranger. So its header is parsed here, strictly and with a bound on its
size, and is compared with what a model needs before anything is allocated for it; the safetensors
library then checks it again and maps the data, without reading it.

The data is laid out so that tensors begin at multiples of 64 bytes, as torch allocates them: some
kernels round differently on other addresses, and a loaded model should round as the saved one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checks import shown
from ..errors import StorageError, WeightsError
from ..files import strict_json
from ..files.atomic import open_ordinary, replacing

#: A header of 5000 tensors and a large config takes 2 MiB; nothing honest is larger than this.
MAX_HEADER_BYTES = 4 * 2**20
#: The name in the metadata under which the checksum of the data stands.
CHECKSUM = "crc32"
_LENGTH = struct.Struct("<Q")
_CHUNK = 2**20
#: What torch aligns tensors to.
_ALIGNMENT = 64
#: What the names of safetensors mean; a name that is not here (8-bit floats ...) is refused.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
#: Those that a floating point tensor may be stored in, for messages.
FLOATS = ", ".join(str(dtype) for dtype in _NAMES if dtype.is_floating_point)


class ReplacedError(WeightsError):
    """Another process saved into the folder while a model was being read from it."""


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of one tensor; its bytes in the data go from ``begin`` to ``end``."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What the header of a weights file says.

    Attributes:
        tensors: Name -> dtype and shape.
        metadata: Free text by name; segzoo keeps the config and a checksum there.
        start: Where the data begins, in bytes.
        size: Size of the whole file in bytes.
        identity: Tells this file from one that was put in its place later.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    start: int
    size: int
    identity: tuple[int, int, int]


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, metadata and a checksum of the data.

    Raises:
        StorageError: A tensor of a type that the format does not have.
        OSError: The file cannot be written.
    """
    # What would push others off their alignment comes last.
    order = sorted(tensors, key=lambda name: tensors[name].nbytes % _ALIGNMENT != 0)
    header: dict[str, object] = {}
    checksum = begin = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise StorageError(f"{name} is of type {tensor.dtype}, which cannot be saved.")
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + tensor.nbytes],
        }
        begin += tensor.nbytes
        checksum = zlib.crc32(_bytes(tensor), checksum)
    header["__metadata__"] = {**metadata, CHECKSUM: f"{checksum:08x}"}
    with path.open("wb") as file:
        file.write(_packed(header))
        for name in order:
            file.write(_bytes(tensors[name]))


def copy_with(source: Path, path: Path, *, config: str) -> None:
    """Copy a weights file in one step, with another config in its header.

    Args:
        source: A whole file; its data is copied as it is.
        path: Where to.
        config: What the metadata has under ``config`` afterwards.

    Raises:
        WeightsError: ``source`` has no valid header.
        OSError: It cannot be read, or ``path`` not be written.
    """
    header = read_header(source)
    with source.open("rb") as file:
        file.seek(_LENGTH.size)
        content = json.loads(file.read(header.start - _LENGTH.size))
        content["__metadata__"] = {**header.metadata, "config": config}
        packed = _packed(content)
        if len(packed) > MAX_HEADER_BYTES:
            raise WeightsError(f"{source} has a header with no room for a config of its own.")
        with replacing(path) as temporary, temporary.open("wb") as copy:
            copy.write(packed)
            shutil.copyfileobj(file, copy, _CHUNK)


def _packed(header: Mapping[str, object]) -> bytes:
    """A header, filled up so that the data behind it is aligned."""
    text = json.dumps(header).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % _ALIGNMENT)
    return _LENGTH.pack(len(text)) + text


def read_header(path: Path) -> Header:
    """Parse the header without reading any data.

    Raises:
        WeightsError: The file is missing, no ordinary file, too short, or its header is not valid.
    """
    try:
        with open_ordinary(path) as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            first = file.read(_LENGTH.size)
            length = _LENGTH.unpack(first)[0] if len(first) == _LENGTH.size else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - _LENGTH.size):
                raise WeightsError(
                    f"{path} is damaged, incomplete, or no safetensors file: it has {size} bytes "
                    f"and claims a header of {length}. Download or save it again."
                )
            text = file.read(length)
    except FileNotFoundError as error:
        raise WeightsError(f"There is no {path.name} in {path.parent}.") from error
    except OSError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} cannot be read: {error}.") from error
    try:
        entries = strict_json.parse(text.decode("utf-8"))
        metadata = entries.pop("__metadata__", {})
        tensors = {name: _tensor_info(entry) for name, entry in entries.items()}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata must be text")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} has no valid safetensors header: {error}.") from error
    return Header(tensors, metadata, _LENGTH.size + length, size, _identity(status))


def may_be_stored(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether a tensor of a model may have another type in a file: what is saved, and loaded.

    Args:
        stored: Its type in the file.
        wanted: Its type in a model that is just built.
    """
    both_floating = stored.is_floating_point and wanted.is_floating_point
    return stored in _NAMES and (stored == wanted or both_floating)


def check_fits(header: Header, expected: Mapping[str, Tensor], where: str) -> None:
    """Compare names, shapes, dtypes, places and the size of the file with what a model needs.

    A floating point tensor may be stored as float64, float32, float16 or bfloat16, whatever the
    model was converted to before it was saved; all others must have the model's own dtype.

    Raises:
        WeightsError: They differ; the message names what does.
    """
    names = header.tensors.keys()
    missing, extra = sorted(expected.keys() - names), sorted(names - expected.keys())
    if missing or extra:
        raise WeightsError(
            f"{where} belongs to another model: {len(missing)} tensors are missing "
            f"{shown(missing)}, {len(extra)} are unknown {shown(extra)}."
        )
    total = 0
    for name, tensor in expected.items():
        info = header.tensors[name]
        if info.shape != tuple(tensor.shape):
            raise WeightsError(
                f"{where} belongs to another model: {name} has the shape {shown(info.shape)}, "
                f"the model needs {tuple(tensor.shape)}."
            )
        stored = _DTYPES.get(info.dtype)
        if stored is None or not may_be_stored(stored, tensor.dtype):
            raise WeightsError(
                f"{where}: {name} is stored as {info.dtype[:16]}, the model needs {tensor.dtype} "
                f"(for floating point also {FLOATS})."
            )
        size = tensor.numel() * stored.itemsize
        if info.end - info.begin != size:
            raise WeightsError(f"{where} is damaged: {name} has not the bytes that it needs.")
        total += size
    _check_places(header, where)
    if header.start + total != header.size:
        raise WeightsError(
            f"{where} is damaged or incomplete: it has {header.size} bytes, its tensors need "
            f"{header.start + total}. Download or save it again."
        )


def _check_places(header: Header, where: str) -> None:
    """Refuse tensors that do not lie one behind the other, as two that share their bytes."""
    end = 0
    for begin, behind in sorted((info.begin, info.end) for info in header.tensors.values()):
        if begin != end:
            raise WeightsError(f"{where} is damaged: its tensors overlap, or leave gaps.")
        end = behind


def read_tensors(
    path: Path, header: Header, *, check_finite: bool, mmap: bool = True
) -> dict[str, Tensor]:
    """All tensors, mapped from the file: private pages, which are loaded when they are used.

    Checking reads the file once, piece by piece, and leaves the mapped pages alone: what is never
    used takes no memory.

    Args:
        path: The file.
        header: Header of the same file, already compared with the model.
        check_finite: Refuse NaN and infinite values.
        mmap: False reads all of them into memory, so that the file may change afterwards.

    Raises:
        ReplacedError: Another file was put in its place since the header was read.
        WeightsError: The data is not what was saved, or not finite.
    """
    stated = header.metadata.get(CHECKSUM)
    found, infinite = stated, None
    try:
        with path.open("rb") as file:
            _check_same(path, os.fstat(file.fileno()), header)
            tensors = _mapped(path, file, header) if mmap else _copied(file, header)
            if stated is not None or check_finite:
                found, infinite = _scan(file, header)
        _check_same(path, path.stat(), header)
    except (SafetensorError, OSError, RuntimeError) as error:  # torch maps, and raises the last
        if isinstance(error, WeightsError):
            raise
        if path.exists():
            _check_same(path, path.stat(), header)  # another file is not a damaged one
        raise WeightsError(f"{path} is damaged, incomplete or unreadable: {error}.") from error
    if stated is not None and found != stated:
        raise WeightsError(
            f"{path} is damaged: the checksum of its data is {found}, it was saved with "
            f"{shown(stated)}. Download or save it again."
        )
    if check_finite and infinite is not None:
        raise WeightsError(
            f"{path} holds values that are not finite: NaN or infinity in {infinite}. A model "
            "with them gives useless results; check_finite=False takes it anyway."
        )
    return tensors


def _mapped(path: Path, file: BufferedReader, header: Header) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as mapped:
        return {
            name: _aligned(mapped.get_tensor(name), file, header.start + info.begin)
            for name, info in header.tensors.items()
        }


def _copied(file: BufferedReader, header: Header) -> dict[str, Tensor]:
    tensors = {}
    for name, info in header.tensors.items():
        # A person may have another default device; files are read into memory.
        tensors[name] = torch.empty(info.shape, dtype=_DTYPES[info.dtype], device="cpu")
        _fill(tensors[name], file, header.start + info.begin)
    return tensors


def _check_same(path: Path, found: os.stat_result, header: Header) -> None:
    if _identity(found) != header.identity:
        raise ReplacedError(f"{path} was replaced while it was being read; load it again.")


def _scan(file: BufferedReader, header: Header) -> tuple[str, str | None]:
    """CRC-32 of the data as eight hexadecimal digits, and the first tensor that is not finite."""
    value, infinite = 0, None
    buffer = bytearray(_CHUNK)
    file.seek(header.start)
    for name, info in sorted(header.tensors.items(), key=lambda item: item[1].begin):
        dtype = _DTYPES[info.dtype]
        left = math.prod(info.shape) * dtype.itemsize
        while left:
            piece = memoryview(buffer)[: min(left, _CHUNK)]
            if file.readinto(piece) != len(piece):
                raise WeightsError(f"{file.name} ends before its data does. Download it again.")
            value = zlib.crc32(piece, value)
            left -= len(piece)
            if infinite is None and dtype.is_floating_point:
                # The extremes tell, much faster than a look at each value.
                low, high = torch.frombuffer(piece, dtype=dtype).aminmax()
                infinite = None if torch.isfinite(low) & torch.isfinite(high) else name
    return f"{value:08x}", infinite


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _tensor_info(entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError("a tensor must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise ValueError("a dtype must be text")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("a shape and the offsets must be lists of integers")
    if len(offsets) != 2:
        raise ValueError("data_offsets must be begin and end")
    return TensorInfo(dtype, tuple(shape), *offsets)


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a tensor."""
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _aligned(mapped: Tensor, file: BufferedReader, begin: int) -> Tensor:
    """The mapped tensor, or where its address is not aligned a copy read from the file.

    Reading leaves the mapped pages alone, so that a tensor never takes its memory twice.
    """
    if mapped.numel() == 0 or mapped.data_ptr() % _ALIGNMENT == 0:
        return mapped
    copy = torch.empty_like(mapped)
    _fill(copy, file, begin)
    return copy


def _fill(tensor: Tensor, file: BufferedReader, begin: int) -> None:
    """Read the values of a tensor from a place in the file."""
    file.seek(begin)
    if file.readinto(_bytes(tensor)) != tensor.nbytes:
        raise WeightsError(f"{file.name} ends before its data does. Download it again.")
