"""Everything that segzoo raises on purpose::

    SegzooError
    ├── ArgumentError (ValueError)         an argument is out of its range
    │   ├── UnknownNameError               no such encoder, architecture, option ...
    │   ├── UnknownKeywordError (TypeError) a misspelt keyword argument
    │   └── DuplicateNameError             the name is taken
    ├── InputError (ValueError)            the tensor or picture given to a model cannot be used
    │   ├── PixelLimitError                a picture of more pixels than may be decoded at once
    │   └── DataError                      pictures and masks that cannot be learned from
    ├── EncoderError (RuntimeError)        the backbone cannot do what was asked of it
    ├── OptimizationError (RuntimeError)   the optimised model would not give the same outputs
    ├── ConversionError (ValueError)       a checkpoint that cannot be brought over exactly
    ├── ExportError (RuntimeError)         a model that cannot become a file, or a file that differs
    ├── TrainingError (RuntimeError)       a training that cannot go on, or not as it was begun
    ├── DeviceError (RuntimeError)         a GPU that computes nothing more for this process
    ├── MissingPackageError (ImportError)  an optional dependency that is not installed, or broken
    └── StorageError (OSError)             a model could not be written or read
        ├── ConfigError                    config.json is not one of ours, or not valid
        ├── WeightsError                   model.safetensors is damaged or does not fit the model
        └── HubError                       the Hub refused, or could not be reached

A message says what came, what was expected and what to do about it. Warnings begin here as well.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable
from typing import Any

#: What lies between a person's line and a warning of ours: our own calls, torch's calls of modules
#: and decorators.
_BETWEEN = frozenset({"segzoo", "torch", "contextlib", "functools"})


class SegzooError(Exception):
    """Base of every error that segzoo raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors go to other processes, whatever their kind is made of."""
        return _again, (type(self), self.args, vars(self))


def _again(kind: type[SegzooError], args: tuple[Any, ...], values: dict[str, Any]) -> SegzooError:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(values)
    return error


class ArgumentError(SegzooError, ValueError):
    """An argument has a value that cannot work."""


class UnknownNameError(ArgumentError):
    """A name that nothing is known by; the message suggests the nearest ones."""


class UnknownKeywordError(ArgumentError, TypeError):
    """A keyword argument that the callable does not take."""


class DuplicateNameError(ArgumentError):
    """A name that is already taken."""


class InputError(SegzooError, ValueError):
    """A tensor or a picture that a model cannot take."""


class PixelLimitError(InputError):
    """A picture of more pixels than may be decoded at once.

    Args:
        message: What is too large, and what to do.
        size: Width and height of the picture, or of a tile of it.
        limit: The largest number of pixels.
    """

    def __init__(self, message: str, *, size: tuple[int, int] = (0, 0), limit: int = 0) -> None:
        super().__init__(message)
        self.size, self.limit = size, limit


class DataError(InputError):
    """Pictures and masks that cannot be learned from, or scored on."""


class EncoderError(SegzooError, RuntimeError):
    """A backbone that cannot do what was asked of it."""


class OptimizationError(SegzooError, RuntimeError):
    """An optimised model that could not be made, or would not give the source's outputs."""


class ConversionError(SegzooError, ValueError):
    """A checkpoint of another library that cannot be brought over exactly."""


class ExportError(SegzooError, RuntimeError):
    """A model that cannot be exported, or whose exported file does not give its logits."""


class TrainingError(SegzooError, RuntimeError):
    """A training that cannot go on, or whose folder belongs to another one."""


class DeviceError(SegzooError, RuntimeError):
    """A GPU that computes nothing more for this process, whatever it is given."""


class MissingPackageError(SegzooError, ImportError):
    """An optional dependency is not installed, or its installation is broken.

    Args:
        package: Its name on PyPI.
        extra: The extra of segzoo that brings it; None where none does.
        reason: Why it cannot be imported though it is installed; None where it is not.
    """

    def __init__(self, package: str, *, extra: str | None, reason: str | None = None) -> None:
        wanted = package if extra is None else f'"segzoo[{extra}]"'
        if reason is None:
            text = f"{package} is needed for this and not installed: pip install {wanted}."
        else:
            text = (
                f"{package} is needed for this and installed, but cannot be imported: {reason}. "
                "Install what it misses, or all of it anew: "
                f"pip install --force-reinstall {package}."
            )
        super().__init__(text)
        self.package, self.extra, self.reason = package, extra, reason


class StorageError(SegzooError, OSError):
    """A model folder that could not be written or read."""


class ConfigError(StorageError):
    """A config.json that is no valid segzoo config."""


class WeightsError(StorageError):
    """A model.safetensors that is damaged or belongs to another model."""


class HubError(StorageError):
    """The Hugging Face Hub refused the call, or could not be reached."""


def warn(message: str) -> None:
    """A ``UserWarning`` that points at the line which led here from outside, however deep it is.

    Counted frames (``stacklevel``) would have to differ between ``model(image)``,
    ``model.predict(image)`` and an optimised model, and between versions of torch.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and _package(frame.f_globals) in _BETWEEN:
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        UserWarning,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _package(names: dict[str, Any]) -> str:
    return str(names.get("__name__")).partition(".")[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the names nearest to ``name``, or an empty string.

    >>> nearest("resnet43", ["resnet34", "resnet18", "vgg11"])
    ' Did you mean resnet34 or resnet18?'
    """
    if len(name) > 256:  # no name of ours; comparing it would take its time
        return ""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""
