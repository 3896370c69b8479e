"""Whether data are the same as last time: a digest of files, options and split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from .dataset import SegmentationData
from .pairs import Pair

_BLOCK = 4096
_BLOCKS = 8
#: Of a dataset that is no files, so many items are looked at.
_ITEMS = 16


def file_key(path: Path) -> str:
    """A digest of a file: of its size and of eight blocks of 4 KiB, or of all of a small one.

    A picture that was changed has another size or another end (PNG ends with checksums of all that
    it holds). Times of files are not looked at, so a copy of a folder is the same data.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            last = max(size - _BLOCK, 0)
            places = sorted({last * step // (_BLOCKS - 1) for step in range(_BLOCKS)})
            if size <= _BLOCK * _BLOCKS:
                places = list(range(0, size, _BLOCK))
            for place in places:
                file.seek(place)
                digest.update(file.read(_BLOCK))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return digest.hexdigest()


def pairs_key(pairs: Iterable[Pair]) -> str:
    """A digest of names and files."""
    digest = hashlib.blake2b(digest_size=16)
    key = lru_cache(maxsize=2)(file_key)  # tiles of one picture follow each other
    for pair in pairs:
        for text in (pair.name, key(pair.image), key(pair.mask)):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def items_key(data: SegmentationData) -> str:
    """A digest of a dataset's length and of sixteen of its items."""
    count = len(data)
    digest = hashlib.blake2b(str(count).encode(), digest_size=16)
    for place in sorted({(count - 1) * step // (_ITEMS - 1) for step in range(_ITEMS)}):
        for tensor in data[place]:
            digest.update(tensor_key(tensor))
    return digest.hexdigest()


def tensor_key(tensor: Tensor) -> bytes:
    """A digest of a tensor's kind, shape and values."""
    values = tensor.detach().cpu().contiguous().numpy()
    # The fastest that Python has where the processor helps, and level with the others where not.
    digest = hashlib.sha1(f"{values.dtype}{values.shape}".encode(), usedforsecurity=False)
    digest.update(values.data if values.size else b"")
    return digest.digest()


def fingerprint(splits: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """One digest of the splits' own and of everything that says how they are read."""
    text = json.dumps({"splits": splits, "options": options}, sort_keys=True, default=_plain)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(type(value).__name__)
