"""What ``torch.save`` wrote, opened without torch's unpickling: see :mod:`~segzoo.files.pickled`.

Its pickle has names, types and shapes; the values lie beside it, and are read when they are asked
for. So of a checkpoint with the optimiser's state only the model's part is ever in memory.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import StorageError
from .atomic import open_ordinary
from .inert import Inert, Name
from .pickled import NotReadError, read_pickle
from .stored import Source, Stored, bytes_of, check_lengths, check_shape, extent
from .zip_file import Member, open_zip, read_small

#: Names of storages -> the type of their values.
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {str(item): item for item in vars(torch).values() if isinstance(item, torch.dtype)}
#: In torch: how many names of constants each tensor is rebuilt with; only plain ones are tensors.
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_WRAPPED = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
)
_PLAIN_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.Parameter")


@dataclass(eq=False)
class _Storage:
    """Values one behind the other, somewhere in the file."""

    key: str
    dtype: torch.dtype
    count: int
    begin: int | None = None  # known from the start in a zip archive, later in older files
    checksum: int | None = None


def open_torch_zip(path: Path) -> Any:
    """What a file holds that torch 1.6 or newer saved: containers, plain values, :class:`Stored`.

    Raises:
        StorageError: It is damaged, none of torch's, or would act on the machine.
    """
    with _errors_of(path):
        source = Source(path)
        members = open_zip(path)
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if any(name.endswith("/constants.pkl") for name in members):
            raise StorageError(
                f"{path} is a TorchScript file: a program with its weights. Where it was made, "
                "save the weights alone by torch.save(model.state_dict(), 'weights.pth')."
            )
        if len(pickles) != 1:
            raise StorageError(
                f"{path} is a zip archive, but none that torch.save wrote "
                f"({_some(list(members))}). Unpack it and give the file inside."
            )
        root = pickles[0].removesuffix("data.pkl")
        if not all(item.plain for name, item in members.items() if name.startswith(root)):
            raise NotReadError(
                "its values are compressed or encrypted, as torch.save never writes them. Unpack "
                "the archive and pack it without compression (zip -0), or save it again by torch"
            )
        order = members.get(f"{root}byteorder")
        if order is not None and read_small(path, order) != sys.byteorder.encode():
            raise NotReadError(f"its values are not in this machine's byte order ({sys.byteorder})")
        storages: dict[str, _Storage] = {}

        def found(storage: _Storage) -> _Storage:
            return storages.setdefault(storage.key, _located(storage, members, root))

        with open_ordinary(path) as file:
            file.seek(members[pickles[0]].begin)
            return _read(_Part(file, members[pickles[0]].size), source, found)


def open_legacy(path: Path) -> Any:
    """What a file holds that a torch before 1.6 saved; as :func:`open_torch_zip`."""
    with _errors_of(path):
        source = Source(path)
        storages: dict[str, _Storage] = {}
        with open_ordinary(path) as file:
            for _ in range(3):  # its magic number, the version of the format, facts of the machine
                facts = read_pickle(file)
            if isinstance(facts, dict) and facts.get("little_endian", True) is not True:
                raise NotReadError("its values are not in this machine's byte order")
            value = _read(file, source, lambda item: storages.setdefault(item.key, item))
            for key in read_pickle(file):
                storage = storages.get(key)
                if storage is None:
                    raise NotReadError(
                        "it has values of a kind that is not read here, such as quantised ones. "
                        "Save dense tensors of floating point"
                    )
                count = int.from_bytes(file.read(8), "little", signed=True)
                storage.begin = file.tell()
                if count < storage.count:
                    raise NotReadError("a tensor has less values than its shape needs")
                file.seek(storage.begin + count * storage.dtype.itemsize)
        if any(_end(item) > source.size for item in storages.values()):
            raise NotReadError(f"it ends too early, after {source.size} bytes")
        return value


def _end(storage: _Storage) -> float:
    """Where a storage ends in its file; nowhere, where the file does not say."""
    if storage.begin is None:
        return float("inf")
    return storage.begin + storage.count * storage.dtype.itemsize


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """What goes wrong in a file, as :class:`StorageError` that names it."""
    try:
        yield
    except StorageError:
        raise
    except NotReadError as error:
        raise StorageError(f"{path} is refused: {error}.") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError, OverflowError, IndexError) as error:
        raise StorageError(f"{path} is damaged: {error}. Download or save it again.") from error


def _some(names: list[str]) -> str:
    first = ", ".join(repr(name[:60]) for name in names[:3])
    return f"it holds {first or 'nothing'}{' ...' if len(names) > 3 else ''}"


class _Part:
    """A part of a file, for a pickle to be read from."""

    def __init__(self, file: BufferedReader, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1, /) -> bytes:
        """At most that many bytes, and none behind the part's end."""
        data = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data

    def readline(self, size: int = -1, /) -> bytes:
        """As a file's."""
        data = self._file.readline(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data


def _located(storage: _Storage, members: dict[str, Member], root: str) -> _Storage:
    """A storage with its place in a zip archive."""
    member = members.get(f"{root}data/{storage.key}")
    if member is None:
        raise NotReadError(f"it lacks the values {storage.key[:40]!r}")
    if member.size < storage.count * storage.dtype.itemsize:
        raise NotReadError("a tensor has less values than its shape needs")
    storage.begin = member.begin
    whole = member.size == storage.count * storage.dtype.itemsize
    storage.checksum = member.checksum if whole else None
    return storage


def _read(stream: Any, source: Source, found: Callable[[_Storage], _Storage]) -> Any:
    """The value of a pickle whose tensors lie beside it."""

    def persistent(given: Any) -> _Storage | Inert:
        if (
            not isinstance(given, tuple)
            or len(given) < 5
            or given[0] not in ("storage", b"storage")
        ):
            return Inert(None)
        kind, key, count = given[1], given[2], given[4]
        name = kind.name if isinstance(kind, Name) else ""
        if name not in _STORAGES or type(count) is not int or not 0 <= count < 2**48:
            return Inert(kind if isinstance(kind, Name) else None)
        if not isinstance(key, str):
            raise NotReadError("its pickle is damaged (the name of a storage is no text)")
        storage = found(_Storage(key, _STORAGES[name], count))
        if storage.count != count or storage.dtype != _STORAGES[name]:
            raise NotReadError("two tensors share values of different types")
        view = given[5] if len(given) > 5 else None
        return storage if view is None else Inert(Name("torch", "a view of a storage"))

    def tensor(arguments: tuple[Any, ...]) -> Stored | None:
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, _Storage) or (len(arguments) > 6 and arguments[6]):
            return None  # of a type that is not known here, or conjugate, or negative
        return _tensor(source, storage, offset, shape, stride, storage.dtype)

    def typed(arguments: tuple[Any, ...]) -> Stored | None:
        storage, offset, shape, stride = arguments[:4]
        kind = arguments[6]
        dtype = _DTYPES.get(str(kind)) if isinstance(kind, Name) else None
        if not isinstance(storage, _Storage) or dtype is None or storage.dtype != torch.uint8:
            return None
        return _tensor(source, storage, offset, shape, stride, dtype)

    def wrapped(arguments: tuple[Any, ...]) -> Any:
        return arguments[0] if isinstance(arguments[0], Stored) else None

    def of_class(arguments: tuple[Any, ...]) -> Any:
        function, kind, inner = arguments[:3]
        if not isinstance(function, Name) or not isinstance(kind, Name):
            return None
        build = builders.get(str(function))
        return build(inner) if build is not None and str(kind) in _PLAIN_CLASSES else None

    builders: dict[str, Callable[[tuple[Any, ...]], Any]] = {
        **dict.fromkeys(_TENSORS, tensor),
        **dict.fromkeys(_WRAPPED, wrapped),
        "torch._utils._rebuild_tensor_v3": typed,
        "torch._tensor._rebuild_from_type_v2": of_class,
    }
    return read_pickle(stream, builders, persistent)


def _tensor(
    source: Source, storage: _Storage, offset: Any, size: Any, stride: Any, dtype: torch.dtype
) -> Stored:
    """A tensor whose values lie in a storage, checked to lie inside."""
    shape, steps = check_shape(_plain(size)), check_lengths(_plain(stride))
    if type(offset) is not int or offset < 0 or len(steps) != len(shape):
        raise NotReadError("a tensor has no place that can be")
    reach = extent(shape, steps)
    if (offset + reach) * dtype.itemsize > storage.count * storage.dtype.itemsize:
        raise NotReadError("a tensor reaches beyond its values")

    def read() -> Tensor:
        assert storage.begin is not None  # checked when the file was opened
        flat = source.values(storage.begin + offset * dtype.itemsize, reach, dtype)
        whole = reach * dtype.itemsize == storage.count * storage.dtype.itemsize
        if whole and storage.checksum and zlib.crc32(bytes_of(flat)) != storage.checksum:
            raise StorageError(
                f"{source.path} is damaged: the checksum of its values differs. Download or save "
                "it again."
            )
        return flat.as_strided(shape, steps).contiguous()

    return Stored(dtype, shape, read, (id(storage), offset, steps))


def _plain(size: Any) -> Any:
    """A shape; ``torch.Size`` is a record of one."""
    if isinstance(size, Inert) and str(size) == "torch.Size" and size.arguments:
        return size.arguments[0]
    return size
