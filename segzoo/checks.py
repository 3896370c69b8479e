"""Checks of argument values, shared by everything that takes arguments from people or files.

Each function returns the value in its canonical form or raises
:class:`~segzoo.errors.ArgumentError` with what came, what was expected and the argument's name.
"""

from __future__ import annotations

import math
import numbers
import reprlib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from .errors import ArgumentError, UnknownKeywordError, UnknownNameError, nearest

T = TypeVar("T")

#: Control characters, halves of characters, and what begins a new line or paragraph.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: What changes the direction of the text behind it, so that a name can look like another one
#: (Unicode's embeddings, overrides and isolates).
_TURNING = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


class _Short(reprlib.Repr):
    """``repr`` of a few items, which has a text for numbers that Python makes none of."""

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # of thousands of digits
            return f"<a number of {x.bit_length()} bits>"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120
#: Characters of a value in a message; a few items of a few items ... are many.
_LONGEST_SHOWN = 1000
#: More is a slip of the keyboard.
_LARGEST_RATE = 1e9


def shown(value: Any) -> str:
    """``repr`` for a message, cut to a readable length however large or deep the value is."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def integer(name: str, value: Any, *, minimum: int, maximum: int) -> int:
    """An int (no bool, no float) between ``minimum`` and ``maximum``, both included."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentError(
            f"{name} must be an integer, got {shown(value)} ({type(value).__name__})."
        )
    if not minimum <= value <= maximum:
        raise ArgumentError(f"{name} must be between {minimum} and {maximum}, got {shown(value)}.")
    return value


def void(name: str, value: Any) -> int | None:
    """The value of void in masks: a whole number of 32 bits (NumPy's too), or None for none."""
    if value is None:
        return None
    if isinstance(value, numbers.Integral) and not isinstance(value, int):
        value = int(value)
    return integer(name, value, minimum=-(2**31), maximum=2**31 - 1)


def number(name: str, value: Any, *, minimum: float, maximum: float) -> float:
    """A finite int or float between ``minimum`` and ``maximum``, both included, as a float."""
    _check_real(name, value)
    if not minimum <= value <= maximum or not math.isfinite(value):
        raise ArgumentError(f"{name} must be between {minimum} and {maximum}, got {shown(value)}.")
    return float(value)


def positive(name: str, value: Any) -> float:
    """An int or float above 0, and no larger than makes sense for a rate, as a float."""
    _check_real(name, value)
    if not 0 < value <= _LARGEST_RATE:
        raise ArgumentError(
            f"{name} must be above 0 and at most {_LARGEST_RATE:g}, got {shown(value)}."
        )
    return float(value)


def _check_real(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentError(
            f"{name} must be a number, got {shown(value)} ({type(value).__name__})."
        )


def flag(name: str, value: Any) -> bool:
    """True or False, nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise ArgumentError(
            f"{name} must be True or False, got {shown(value)} ({type(value).__name__})."
        )
    return value


def text(name: str, value: Any, *, longest: int = 256) -> str:
    """A non-empty string of at most ``longest`` characters."""
    if not isinstance(value, str):
        raise ArgumentError(
            f"{name} must be a string, got {shown(value)} ({type(value).__name__})."
        )
    if not 0 < len(value) <= longest:
        raise ArgumentError(f"{name} must have 1 to {longest} characters, got {len(value)}.")
    if not value.isprintable() and any(
        unicodedata.category(character) in _UNPRINTABLE or character in _TURNING
        for character in value
    ):
        raise ArgumentError(
            f"{name} must be printable text on one line, in its own direction, got {shown(value)}."
        )
    return value


def printable(text: str) -> str:
    """Text with every character that is none to be seen as its escape, such as ``\\x1b``.

    For names that strangers chose: what a terminal would obey, what would turn the text behind it
    around, and halves of characters.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def choice(name: str, value: Any, options: Collection[str]) -> str:
    """One of ``options``; a near miss is told what it looks like."""
    if not isinstance(value, str) or value not in options:
        hint = nearest(value, options) if isinstance(value, str) else ""
        raise UnknownNameError(
            f"{name} must be one of {', '.join(sorted(options))}; got {shown(value)}.{hint}"
        )
    return value


def sequence(
    name: str, value: Any, item: Callable[[str, Any], T], *, longest: int = 1024
) -> tuple[T, ...]:
    """A tuple of at most ``longest`` checked items, from any list or tuple."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ArgumentError(
            f"{name} must be a sequence, got {shown(value)} ({type(value).__name__})."
        )
    if len(value) > longest:
        raise ArgumentError(f"{name} must have at most {longest} items, got {len(value)}.")
    return tuple(item(f"{name}[{i}]", entry) for i, entry in enumerate(value))


def plain_value(name: str, value: Any, *, levels: int = 4) -> Any:
    """A value that JSON can carry, small and finite; lists become tuples, mappings dicts."""
    if value is None or isinstance(value, bool) or value == "":
        return value
    if isinstance(value, str):
        return text(name, value, longest=4096)
    if isinstance(value, int):
        return integer(name, value, minimum=-(2**53), maximum=2**53)
    if isinstance(value, float):
        return number(name, value, minimum=-math.inf, maximum=math.inf)
    if levels and isinstance(value, Mapping):
        return {
            text(f"a key of {name}", key): plain_value(
                f"{name}[{shown(key)}]", entry, levels=levels - 1
            )
            for key, entry in value.items()
        }
    if levels and isinstance(value, Sequence) and not isinstance(value, bytes):
        return sequence(
            name, value, lambda where, entry: plain_value(where, entry, levels=levels - 1)
        )
    raise ArgumentError(
        f"{name} must be made of numbers, strings, booleans, lists and mappings, so that it can "
        f"be saved; got {shown(value)} ({type(value).__name__})."
    )


def keywords(owner: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise for the first keyword that is not in ``known``."""
    for name in given:
        if name not in known:
            raise UnknownKeywordError(
                f"{owner} has no argument {shown(name)}.{nearest(name, known)} "
                f"It takes: {', '.join(known) or 'none'}."
            )
