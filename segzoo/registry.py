"""Names and what they stand for: an entry is never replaced, an unknown name gets a suggestion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from .errors import DuplicateNameError, UnknownNameError, nearest

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping to which names can be added but in which none can be replaced.

    Args:
        kind: What the entries are, for the messages: ``"encoder"``, ``"architecture"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Register ``entry`` under ``name``.

        Raises:
            DuplicateNameError: The name is taken.
        """
        if name in self._entries:
            raise DuplicateNameError(
                f"The {self.kind} {name!r} is already registered, as {self._entries[name]!r}. "
                "Choose another name."
            )
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(
                f"There is no {self.kind} {name!r}.{nearest(name, self)} "
                f"Known: {', '.join(sorted(self)) or 'none'}."
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
