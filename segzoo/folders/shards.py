"""A part of a folder, for one of several machines: which pictures are its own."""

from __future__ import annotations

from dataclasses import dataclass

from .. import checks
from ..errors import ArgumentError
from .names import stable_hash


@dataclass(frozen=True)
class Shard:
    """One of several parts, told by a hash of each picture's path within its folder.

    >>> paths = [f"scans/{i}.png" for i in range(9000)]
    >>> [sum(Shard(part, 3).holds(path) for path in paths) for part in (1, 2, 3)]
    [2930, 3034, 3036]

    A picture stays in its part whatever else is in the folder, on every machine and in every
    version of Python. Parts are of about the same size: of a million pictures in 16 parts each
    has 62,500 up to some hundreds.

    Args:
        part: Which of them, from 1.
        parts: How many there are.
    """

    part: int
    parts: int

    def __post_init__(self) -> None:
        checks.integer("parts", self.parts, minimum=1, maximum=1 << 20)
        checks.integer("part", self.part, minimum=1, maximum=1 << 20)
        if self.part > self.parts:
            raise ArgumentError(
                f"There is no part {self.part} of {self.parts}: they are 1/{self.parts} to "
                f"{self.parts}/{self.parts}."
            )

    def holds(self, path: str) -> bool:
        """Whether a picture belongs to it; its path within the folder, with ``/``."""
        return stable_hash(path) % self.parts == self.part - 1
