"""Folders that downloads go to, and what is wrong with them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .problem import ERROR, WARNING, Problem

#: Less than this, and weights of a backbone may not fit.
_LITTLE = 2**30
#: Less shared memory than this is not enough for processes that read pictures.
_LITTLE_SHARED = 2**28


@dataclass(frozen=True)
class Folder:
    """A folder that files are put into.

    Attributes:
        path: Where it is, or will be.
        for_what: What lies in it.
        writable: Whether this process may write there.
        free_bytes: Space on its disk; None where it is not known.
    """

    path: str
    for_what: str
    writable: bool
    free_bytes: int | None


def find_folders() -> tuple[Folder, ...]:
    """The cache of the Hub's client. Nothing is made or written."""
    try:
        from huggingface_hub import constants
    except ImportError:  # told of as a package that is missing
        return ()
    return (look_at(Path(constants.HF_HUB_CACHE), "models and weights from the Hub"),)


def look_at(path: Path, for_what: str) -> Folder:
    """What is known of a folder; of one that is not there yet, what its first parent says."""
    there = path
    with contextlib.suppress(RuntimeError):  # there is no home
        there = path.expanduser()
    there = there.absolute()
    while not os.path.lexists(there) and there.parent != there:
        there = there.parent
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    free = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(there).free
    return Folder(os.fspath(path), for_what, writable, free)


def folder_problems(folders: Sequence[Folder]) -> Iterator[Problem]:
    """Folders that cannot be written, and disks that are full."""
    for folder in folders:
        remedy = "Set HF_HOME to a folder that you may write to, on a disk with space."
        if not folder.writable:
            message = f"{folder.path} ({folder.for_what}) cannot be written."
            yield Problem(ERROR, message, remedy)
        elif folder.free_bytes is not None and folder.free_bytes < _LITTLE:
            free = folder.free_bytes / 2**20
            message = f"{folder.path} ({folder.for_what}) has {free:.0f} MiB left on its disk."
            yield Problem(WARNING, message, f"Make room. {remedy}")


def offline() -> Iterator[Problem]:
    """Whether the Hub's client was told not to download."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return
    if constants.HF_HUB_OFFLINE:
        yield Problem(
            WARNING,
            "HF_HUB_OFFLINE is set: weights come from the cache alone; what is not there fails.",
            "Unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE) where there is a network.",
        )


def shared_memory(root: Path = Path("/")) -> Iterator[Problem]:
    """Too little memory for processes that hand pictures to each other, as Docker's default is."""
    path = root / "dev" / "shm"
    with contextlib.suppress(OSError):
        total = shutil.disk_usage(path).total
        if total < _LITTLE_SHARED:
            yield Problem(
                WARNING,
                f"/dev/shm has {total / 2**20:.0f} MiB: processes that read pictures for a "
                "training end with a bus error when it is full.",
                "docker run --shm-size=2g, or segzoo train --workers 0.",
            )
