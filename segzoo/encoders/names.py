"""What encoders are called: those that come with segzoo, those of its users, and timm's."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import UnknownNameError, nearest
from ..registry import Registry
from .recipes import BUILT_IN

#: Encoders that are not timm's: name -> a callable that builds the backbone.
ENCODERS: Registry[Callable[..., nn.Module]] = Registry(
    "encoder", {name: f"{__package__}.{module}" for name, module in BUILT_IN.items()}
)


def all_names() -> set[str]:
    """The names of all encoders, without tags."""
    import timm

    return {*timm.list_models(), *ENCODERS}


def unknown(name: str) -> UnknownNameError:
    """The error for a name that no encoder has; what looks like a tag is not compared."""
    return UnknownNameError(
        f"There is no encoder {name!r}.{nearest(name.partition('.')[0], all_names())} "
        "segzoo.list_encoders() gives all names."
    )
