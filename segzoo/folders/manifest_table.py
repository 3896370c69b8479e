"""A manifest as a table of Parquet, for what reads tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import StorageError
from ..files.atomic import replacing
from ..packages import load_package
from .manifest import entries

_COLUMNS = ("image", "mask", "shares", "error", "model")
#: Rows that are written together, and held.
_ROWS = 20_000


def require_parquet() -> Any:
    """pyarrow.

    Raises:
        MissingPackageError: It is not installed.
    """
    load_package("pyarrow", extra="parquet")
    return load_package("pyarrow.parquet", extra="parquet")


def write_table(manifest: Path, target: Path) -> None:
    """Write the lines of a manifest as a Parquet file: in their order, all as text.

    A picture that failed first and was done later has two rows, as it has two lines.

    Args:
        manifest: Lines of JSON, of :class:`~segzoo.folders.manifest.Manifest`.
        target: The file; replaced if it is there. Its columns are ``image``, ``mask``, ``shares``
            (JSON), ``error``, and ``model``, the fingerprint.

    Raises:
        MissingPackageError: pyarrow is not installed.
        StorageError: It cannot be written.
    """
    parquet = require_parquet()
    arrow = load_package("pyarrow", extra="parquet")
    schema = arrow.schema([(name, arrow.string()) for name in _COLUMNS])
    rows = _rows(manifest)
    try:
        with replacing(target) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            while chunk := list(islice(rows, _ROWS)):
                writer.write_table(arrow.Table.from_pylist(chunk, schema=schema))
    except OSError as error:
        raise StorageError(f"{target} could not be written: {error}.") from error


def _rows(manifest: Path) -> Iterator[dict[str, str | None]]:
    model = None
    for entry in entries(manifest):
        if "run" in entry:
            model = str(entry["run"].get("model"))
            continue
        shares = entry.get("shares")
        yield {
            "image": _text(entry.get("image")),
            "mask": _text(entry.get("mask")),
            "shares": None if shares is None else json.dumps(shares),
            "error": _text(entry.get("error")),
            "model": model,
        }


def _text(value: object) -> str | None:
    """What UTF-8 has; of names that are none, the bytes as escapes."""
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode()
