"""Local or remote: what exists is never looked for on the Hub, nor what is named as a file."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checks import shown
from ..errors import ArgumentError, HubError, SegzooError, StorageError

#: Endings of files of weights, ours and others'. A repository could be named so; none is.
_ENDINGS = frozenset(
    (
        *(".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".pkl", ".pickle", ".tar", ".zip"),
        *(".onnx", ".xml", ".h5", ".hdf5", ".keras", ".pb", ".tflite", ".npz", ".gz", ".pt2"),
    )
)


def path_of(argument: str, value: Any) -> Path:
    """The path that somebody gave as an argument.

    Raises:
        ArgumentError: It is none; or it is an empty text, which would stand for the folder that the
            program happens to be in.
    """
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise ArgumentError(
            f"{argument} must be a path, a text or a pathlib.Path; got {shown(value)} "
            f"({type(value).__name__})."
        )
    if os.fspath(value) == "":
        raise ArgumentError(f"{argument} is an empty text. '.' is the folder that you are in.")
    return Path(value)


def exists(name: str | os.PathLike[str]) -> bool:
    """Whether a file, a folder or anything else of that name is here.

    Raises:
        StorageError: That cannot be told: a folder on the way may not be entered.
    """
    try:
        os.lstat(name)
    except PermissionError as error:
        raise StorageError(f"{os.fspath(name)!r} cannot be looked at: {error.strerror}.") from error
    except (OSError, ValueError):
        return False
    return True


def is_there(path: Path) -> bool:
    """Whether a name leads to a file or folder; one that no file can have does not."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, no permission, a zero byte: by version of Python
        return False


def is_file(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of an ordinary file, or of a link to one."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long, no permission, a zero byte
        return False


def is_folder(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a folder, or of a link to one.

    Raises:
        StorageError: That cannot be told: a folder on the way may not be entered.
    """
    try:
        return Path(name).is_dir()
    except PermissionError as error:
        raise StorageError(f"{os.fspath(name)!r} cannot be looked at: {error.strerror}.") from error
    except (OSError, ValueError):
        return False


def listed(folder: Path, *, kind: type[SegzooError] = StorageError) -> list[Path]:
    """What lies in a folder, by name.

    Args:
        folder: It.
        kind: What is raised.

    Raises:
        SegzooError: It cannot be read; of the ``kind``.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise kind(closed(folder, error)) from error


def closed(folder: str | os.PathLike[str], error: OSError) -> str:
    """What is said of a folder that cannot be looked into."""
    return (
        f"The folder {os.fspath(folder)} cannot be read: {error.strerror or error}. Allow "
        "yourself to read it (chmod u+rx), or move it elsewhere."
    )


def as_typed(path: str | os.PathLike[str]) -> str:
    """A path as a shell takes it: in quotes where it needs them."""
    if os.name == "nt":
        return subprocess.list2cmdline([os.fspath(path)])
    return shlex.quote(os.fspath(path))


def is_file_name(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a file of weights, by its ending."""
    return Path(name).suffix.lower() in _ENDINGS


def check_may_be_remote(name: str | os.PathLike[str]) -> None:
    """Refuse to look on the Hub for what is meant to be here.

    Raises:
        StorageError: It exists here, or is named as a file.
    """
    if exists(name):
        raise StorageError(
            f"{os.fspath(name)!r} is here, and is neither a folder nor an ordinary file, or leads "
            "nowhere."
        )
    if is_file_name(name):
        raise StorageError(f"There is no file {os.fspath(name)!r}.")


@contextmanager
def also_not_here(name: str | os.PathLike[str]) -> Iterator[None]:
    """Let a failure of the Hub say that there is no such folder here either."""
    try:
        yield
    except HubError as error:
        here = Path.cwd()
        raise HubError(
            f"There is no folder {shown(os.fspath(name))} here (in {here}), so it was taken for a "
            f"repository on the Hub. {error}"
        ) from error
