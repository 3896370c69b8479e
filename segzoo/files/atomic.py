"""Files that are there whole or not at all, and files that are no trap."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from ..errors import StorageError
from .leftovers import temporary_name
from .local import is_folder, is_there


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that becomes ``path`` in one step when all went well.

    Its bytes are on the disk before that step, and the step before this returns.

    Raises:
        OSError: It cannot be written.
    """
    if not path.name:  # of ".", in which pathlib raises an error of another kind
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("r+b") as file:  # Windows syncs only what may be written to
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk as well, where a folder can be asked for that."""
    with suppress(OSError, AttributeError):  # some file systems cannot, and Windows has no such way
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
    if "\0" in os.fspath(path):  # in which Python raises an error of another kind
        raise OSError(f"{os.fspath(path)!r} is no name of a file")
    # A pipe without a writer would block at opening, hence the look before.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no ordinary file")
    return path.open("rb")


def read_bytes(path: Path, *, largest: int) -> bytes:
    """The bytes of a plain file of a limited size; of a larger one not much more is read.

    Raises:
        OSError: It is missing, no plain file, or larger.
    """
    with open_ordinary(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise OSError(f"{path} has more than {largest:,} bytes")
    return data


def read_text(path: Path, *, largest: int, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a plain file of a limited size, with line ends as they are.

    Raises:
        OSError: It is missing, no plain file, or larger.
        UnicodeDecodeError: It has another encoding.
    """
    return read_bytes(path, largest=largest).decode(encoding, errors)


def check_folder(path: Path) -> None:
    """Raise where a folder could not be made or written to; nothing is made.

    For what is written in the end, after work that would be lost.

    Raises:
        StorageError: A part of its path is a file, or may not be written to.
    """
    there = path.absolute()
    while not is_there(there) and there.parent != there:
        there = there.parent
    if not is_folder(there):
        raise StorageError(f"The folder {path} cannot be made: {there} is no folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(
            f"The folder {path} cannot be written to: {there} allows it to others only, or lies on "
            "a disk that is read only. Choose another folder."
        )


def check_file(path: Path) -> None:
    """Raise where a file could not be written: its folder must be there, and writable.

    Raises:
        StorageError: It is a folder, there is none for it, or one that may not be written to.
    """
    if not path.name or is_folder(path):
        raise StorageError(f"{path} is a folder; give the name of a file.")
    if not is_folder(path.parent):
        raise StorageError(f"There is no folder {path.parent} to write {path.name} to.")
    check_folder(path.parent)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, where it is missing.

    Raises:
        StorageError: It cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # the latter of a zero byte in its name
        raise StorageError(f"The folder {folder} cannot be made: {error}.") from error
    return folder
