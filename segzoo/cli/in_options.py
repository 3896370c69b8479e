"""Messages in the words of the command line: ``--ignore-index 255``, not ``ignore_index=255``."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ..errors import SegzooError
from .output import PartialFailureError

P = ParamSpec("P")
R = TypeVar("R")


def _plain(value: str) -> str:
    return value


def _list(value: str) -> str:
    """``(1, 2, 3)`` -> ``1,2,3``."""
    return value.strip("()").replace(" ", "")


def _pair(value: str) -> str:
    """``(0, 4095)`` -> ``0 4095``."""
    return value.strip("()").replace(",", "")


def _map(value: str) -> str:
    """``{255: 1, 'sky': None}`` -> ``255=1,sky=void``."""
    parts = []
    for part in value.strip("{}").split(","):
        old, colon, new = (text.strip().strip("'\"") for text in part.partition(":"))
        parts.append(f"{old}={'void' if new == 'None' else new}" if colon else old)
    return ",".join(parts)


def _file(value: str) -> str:
    return "FILE"


#: Python's name -> the option, and how its value is written.
_OPTIONS: dict[str, tuple[str, Callable[[str], str]]] = {
    "ignore_index": ("--ignore-index", _plain),
    "label_map": ("--label-map", _map),
    "mask_suffix": ("--mask-suffix", _plain),
    "value_range": ("--range", _pair),
    "bands": ("--bands", _list),
    "classes": ("--classes", _plain),
    "palette": ("--palette", _file),
    "group": ("--group", _plain),
    "tile": ("--tile", _plain),
    "seed": ("--seed", _plain),
    "val": ("--val", _plain),
    "test": ("--test", _plain),
}
_NAME = f"\\b({'|'.join(_OPTIONS)})"
_VALUE = r"(\{[^{}]*\}|\([^()]*\)|'[^']*'|[^\s,.;:)]+)?"


def in_options(text: str) -> str:
    """The same with the options of ``segzoo check`` for Python's keywords.

    >>> in_options("Pass ignore_index=255 if 255 is void, or classes=256.")
    'Pass --ignore-index 255 if 255 is void, or --classes 256.'
    >>> in_options("Is ignore_index right? Pass label_map={255: 1}.")
    'Is --ignore-index right? Pass --label-map 255=1.'
    """
    # Some messages have both already.
    text = re.sub(rf"{_NAME}={_VALUE}, (?=--)", "", text)

    def option(match: re.Match[str]) -> str:
        name, written = _OPTIONS[match[1]]
        return f"{name} {written(match[2])}" if match[2] else name

    text = re.sub(rf"{_NAME}={_VALUE}", option, text)
    # Names that are no words of English are Python's, whatever stands behind them.
    names = "|".join(name for name in _OPTIONS if "_" in name)
    return re.sub(rf"\b({names})\b", lambda match: _OPTIONS[match[1]][0], text)


def speaks_options(function: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors name its options."""

    @functools.wraps(function)
    def told(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return function(*arguments, **options)
        except PartialFailureError as error:
            raise PartialFailureError(in_options(str(error))) from error
        except SegzooError as error:
            raise SegzooError(in_options(str(error))) from error

    return told
