"""Temporary files and folders, whose names say whose they are: those of the dead can be removed.

A process that is killed cannot clean up. Its files have the size of a model, and nobody knows them;
so whoever writes next removes them: at once where their process ran on this machine and is gone,
after a day where nothing is known of it.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from contextlib import suppress
from pathlib import Path

#: Age in seconds after which a file is left over, whosever it is.
STALE = 24 * 3600
#: ``.model.safetensors.<machine>-<process>-<random>.tmp``.
_NAME = re.compile(r"\..+\.([0-9a-f]{8})-([0-9]{1,10})-[0-9a-f]{16}\.tmp")
#: As names were before they had a process in them.
_OLD_NAME = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def temporary_name(name: str) -> str:
    """A hidden name that nobody else uses, for what becomes ``name`` beside it, or was it."""
    # What is added must fit where the name itself does: file systems take 255 bytes.
    short = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    return f".{short}.{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.tmp"


def sweep(folder: Path, *, below: bool = False) -> None:
    """Remove temporary files and folders in a folder whose processes were killed; others stay.

    Args:
        folder: Where; one that is missing or cannot be listed has none.
        below: Its subfolders as well; links to folders are not followed.
    """
    for root, inside, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another process may be at it
                if name.startswith(".") and _is_left_over(Path(root, name)):
                    Path(root, name).unlink()
        for name in inside:
            with suppress(OSError):  # a link is none of these, whatever its name
                if _NAME.fullmatch(name) and _is_left_over(Path(root, name)):
                    shutil.rmtree(Path(root, name))
        if not below:
            inside.clear()


def _is_left_over(path: Path) -> bool:
    found = _NAME.fullmatch(path.name)
    if found is None and _OLD_NAME.fullmatch(path.name) is None:
        return False
    if found is not None and found[1] == _machine() and _is_gone(int(found[2])):
        return True
    return time.time() - path.lstat().st_mtime > STALE


def _is_gone(process: int) -> bool:
    """Whether there is no such process; False where that cannot be told."""
    if os.name != "posix":  # elsewhere the question itself may end the process
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is another user's
        return False
    return False


@functools.cache
def _machine() -> str:
    """Tells within which numbers of processes mean anything: a machine since it was started.

    A container has numbers of its own; a network drive is seen by many machines.
    """
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return f"{zlib.crc32(' '.join(parts).encode('utf-8', 'replace')):08x}"
