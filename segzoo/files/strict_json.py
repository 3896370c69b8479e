"""JSON from a file that may be a stranger's: one value for each key, finite numbers, few levels."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def parse(text: str) -> dict[str, Any]:
    """The object in a JSON text.

    Raises:
        ValueError: It is no JSON object, holds a key twice, NaN or infinity, or nests too deep.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"it must be an object, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(f"an object holds one of its {len(pairs)} keys twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")
