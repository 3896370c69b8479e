"""Files that are there whole or not at all, and files that are no trap."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from ..errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that becomes ``path`` in one step when all went well."""
    # What is added must fit where the name itself does: file systems take 255 bytes.
    name = path.name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    temporary = path.with_name(f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_file(source: Path, path: Path) -> None:
    """Copy a file in one step."""
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def open_ordinary(path: Path) -> BufferedReader:
    """Open a file for reading that is a plain file (links are followed), not a device or a pipe.

    Raises:
        OSError: It is missing, or something else.
    """
    # A pipe without a writer would block at opening, hence the look before.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no ordinary file")
    return path.open("rb")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, where it is missing.

    Raises:
        StorageError: It cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {folder} cannot be made: {error}.") from error
    return folder
