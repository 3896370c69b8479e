"""The ``encoder_options`` that a config from a file may hold.

They go to ``timm.create_model``, where an option may name a file, import a class or ask for a
hundred thousand blocks. From a file only these are taken, each with its type and range; whoever
needs others builds the encoder in code and registers it with :func:`segzoo.register_encoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .. import checks
from ..errors import ArgumentError, UnknownKeywordError, nearest

#: No window or image side that a backbone is built for is larger.
_MAX_SIDE = 4096


def _rate(name: str, value: Any) -> None:
    checks.number(name, value, minimum=0, maximum=1)


def _index(name: str, value: Any) -> int:
    return checks.integer(name, value, minimum=-1024, maximum=1023)


def _indices(name: str, value: Any) -> None:
    if isinstance(value, int):
        checks.integer(name, value, minimum=1, maximum=64)
    else:
        checks.sequence(name, value, _index, longest=64)


def _side(name: str, value: Any) -> int:
    return checks.integer(name, value, minimum=1, maximum=_MAX_SIDE)


def _patch(name: str, value: Any) -> int:
    # No smaller than timm's own: the positions of a large image would be millions.
    return checks.integer(name, value, minimum=8, maximum=64)


def _registers(name: str, value: Any) -> int:
    return checks.integer(name, value, minimum=0, maximum=64)


def _size(name: str, value: Any) -> None:
    if isinstance(value, int):
        _side(name, value)
    elif len(checks.sequence(name, value, _side, longest=2)) != 2:
        raise ArgumentError(f"{name} must be a side or (height, width).")


def _output_stride(name: str, value: Any) -> None:
    if checks.integer(name, value, minimum=8, maximum=32) not in (8, 16, 32):
        raise ArgumentError(f"{name} must be 8, 16 or 32, got {value}.")


#: Name -> a check of the value.
STORED_OPTIONS: Mapping[str, Callable[[str, Any], object]] = {
    "always_partition": checks.flag,
    "attn_drop_rate": _rate,
    "drop_block_rate": _rate,
    "drop_path_rate": _rate,
    "drop_rate": _rate,
    "dynamic_img_pad": checks.flag,
    "dynamic_img_size": checks.flag,
    "img_size": _size,
    "norm_eps": _rate,
    "num_reg_tokens": _registers,
    "out_indices": _indices,
    "output_stride": _output_stride,
    "pad_first": checks.flag,
    "patch_drop_rate": _rate,
    "patch_size": _patch,
    "pos_drop_rate": _rate,
    "proj_drop_rate": _rate,
    "reg_tokens": _registers,
    "strict_img_size": checks.flag,
    "window_size": _size,
}


def check(options: Mapping[str, Any]) -> None:
    """Raise for an option that a config from a file may not hold.

    Raises:
        ArgumentError: An option that is not in :data:`STORED_OPTIONS`, or a value out of range.
    """
    for name, value in options.items():
        if name not in STORED_OPTIONS:
            raise UnknownKeywordError(
                f"encoder_options of a saved model cannot hold {checks.shown(name)}."
                f"{nearest(name, STORED_OPTIONS)} They can hold: {', '.join(STORED_OPTIONS)}. For "
                "others, build the encoder in a function of yours and give it a name with "
                "segzoo.register_encoder."
            )
        STORED_OPTIONS[name](f"encoder_options[{name!r}]", value)
