"""What strangers' names, shapes and configs make go wrong while they are read is a refusal.

What the caller gave is looked at before: a wrong type of an argument is no fault of a checkpoint.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from .. import checks
from ..errors import ArgumentError, ConversionError, SegzooError

P = ParamSpec("P")
Result = TypeVar("Result")


def refuses_oddities(convert: Callable[P, Result]) -> Callable[P, Result]:
    """Turn another error than ours, raised by what a checkpoint holds, into a refusal.

    Converters read widths off shapes and arguments off configs. A tensor may have the name of a
    model's and no dimensions, and a config may have anything under any name; what that leads to
    cannot be foreseen line by line.
    """
    signature = inspect.signature(convert)

    @functools.wraps(convert)
    def converted(*args: P.args, **kwargs: P.kwargs) -> Result:
        signature.bind(*args, **kwargs)  # what the caller got wrong is the caller's
        try:
            return convert(*args, **kwargs)
        except SegzooError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            library = convert.__name__.partition("_")[2]
            raise ConversionError(
                f"No model of {library} has tensors or a config like this: their names are those "
                f"of one, what they hold is not ({type(error).__name__}: {error})."
            ) from error

    return converted


def check_config(config: Any) -> None:
    """Refuse what a caller gave for a config and that has no names.

    Raises:
        ArgumentError: It is neither None nor a mapping.
    """
    if config is not None and not isinstance(config, Mapping):
        to_dict = " Give its to_dict()." if hasattr(config, "to_dict") else ""
        raise ArgumentError(
            "config must be a mapping from the other library's names of arguments to values, got "
            f"{checks.shown(config)} ({type(config).__name__}).{to_dict}"
        )
