"""Optional packages: imported where they are needed, and without what they tell their makers.

Some packages report to their makers that they were used, unless each user has told them not to:
OpenVINO and nncf when they are imported, Ray when it starts, ONNX Runtime on Windows. Nobody who
installed segzoo was asked, so none of them reports anything because segzoo imported it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .errors import MissingPackageError

#: Packages that others send their reports with. All of them do without.
_REPORTERS = ("openvino_telemetry",)
#: What packages read in the environment before they report; a user's own word stands.
_ENVIRONMENT = {"ray": ("RAY_USAGE_STATS_ENABLED", "0"), "nncf": ("NNCF_CI", "1")}

#: How many imports are under way, what is hidden meanwhile, and the lock of both.
_importing = 0
_hidden: set[str] = set()
_HIDING = threading.Lock()


def load_package(name: str, *, extra: str, package: str | None = None) -> ModuleType:
    """Import an optional package, or a module of one.

    Args:
        name: What is imported, such as ``matplotlib.figure``.
        extra: The extra of segzoo that brings it.
        package: Its name on PyPI, where that is another than the import's first part.

    Raises:
        MissingPackageError: It is not installed, or cannot be imported; with the reason.
    """
    top = name.partition(".")[0]
    if top in _ENVIRONMENT and top not in sys.modules:
        os.environ.setdefault(*_ENVIRONMENT[top])
    try:
        with _without_reporters():
            module = importlib.import_module(name)
    except Exception as error:  # of a broken installation: of a library that is missing, say
        reason = why_broken(top, error)
        raise MissingPackageError(package or top, extra=extra, reason=reason) from error
    if top == "onnxruntime":
        module.disable_telemetry_events()
    return module


@contextmanager
def _without_reporters() -> Iterator[None]:
    """Meanwhile the packages that send reports cannot be imported, as where they are missing.

    One that somebody has imported before stays as it is. Threads may import at the same time: what
    is hidden can be imported again once the last of them is done. They do not wait for each other,
    as each may hold a lock of Python's that another one wants.
    """
    global _importing
    # Python's own way to say that there is no such package, which its types do not know.
    modules: dict[str, Any] = sys.modules
    with _HIDING:
        _importing += 1
        new = [name for name in _REPORTERS if name not in modules]
        _hidden.update(new)
        modules.update(dict.fromkeys(new))
    try:
        yield
    finally:
        with _HIDING:
            _importing -= 1
            while _hidden and not _importing:
                modules.pop(_hidden.pop(), None)


def why_broken(name: str, error: Exception) -> str | None:
    """What hinders a package that is installed, from what its import raised; else None."""
    if not has_package(name):
        return None
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(" .:")


def has_package(name: str) -> bool:
    """Whether an optional package is installed; :func:`load_package` says it where it is broken."""
    if name in sys.modules:
        return sys.modules[name] is not None
    return importlib.util.find_spec(name) is not None
