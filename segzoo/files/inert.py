"""What a pickle names and would build, as values: see :mod:`~segzoo.files.pickled`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """What a pickle would have built: a record of it.

    Attributes:
        of: The class or function, or the record of what would have given it.
        arguments: What it would have been called with.
        state: What its attributes would have been set to.
        items: What would have been put into it by key.
    """

    of: Name | Inert | None
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        of = self.of
        if isinstance(of, Name):
            return str(of)
        if isinstance(of, Inert) and isinstance(of.of, Name) and of.of.name == "getattr":
            owner, name = (*of.arguments, None, None)[:2]
            if isinstance(owner, Name) and isinstance(name, str):
                return f"{owner}.{name[:80]}"  # a method, or a member of an enum
        return "an object without a name"
