"""Names for results such that no two pictures share one, on any file system."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import count

import numpy as np

_OVERLAY = "_overlay"


def stable_hash(text: str) -> int:
    """64 bits that are the same on every machine and in every version of Python.

    >>> stable_hash("scans/a.png")
    9577637925956159044
    """
    data = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class Names:
    """Names that were given away.

    >>> names = Names()
    >>> [names.take(stem) for stem in ("x", "X", "x_overlay", "x_2")]
    ['x', 'X_2', 'x_overlay_2', 'x_2_2']

    A name stands for ``x.png`` and ``x_overlay.png``, or for ``x.tif``: which of them is known only
    when the picture is read, and a name must not depend on what a file holds.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._last: dict[int, int] = {}

    def take(self, stem: str) -> str:
        """The stem, or with a number if somebody else has it."""
        own = _key(stem)
        # Of a thousand pictures of one name none looks through all the numbers before.
        for number in count(self._last.get(own, 0) + 1):
            name = stem if number == 1 else f"{stem}_{number}"
            keys = {_key(name), _key(name + _OVERLAY)}
            if not keys & self._taken:
                self._taken |= keys
                if number > 1 or own in self._last:
                    self._last[own] = number
                return name
        raise AssertionError("numbers do not end")


class FolderNames(Names):
    """The same, where all stems of a folder are known before: only what could clash is remembered.

    A million pictures of a million names then take no memory but for a hash of each, and that for
    a moment.

    Two stems can clash in three ways only: they are the same but for case; one is the other's
    overlay; or one is what the other becomes by a number, and then the other clashes with a third.

    Args:
        stems: Of all pictures in the folder.
        count: How many there are.
    """

    def __init__(self, stems: Iterable[str], count: int) -> None:
        super().__init__()
        overlaid: set[int] = set()

        def keys() -> Iterable[int]:
            for stem in stems:
                base = stem.casefold().removesuffix(_OVERLAY)
                if len(base) < len(stem.casefold()):
                    overlaid.add(_key(base))
                yield _key(stem)

        found = np.fromiter(keys(), np.uint64, count)
        found.sort()
        self._clashing = overlaid | set(found[1:][found[1:] == found[:-1]].tolist())

    def take(self, stem: str) -> str:
        """The stem, or with a number if somebody else has it."""
        return super().take(stem) if self._may_clash(stem.casefold()) else stem

    def _may_clash(self, stem: str) -> bool:
        if stem.endswith(_OVERLAY) or _key(stem) in self._clashing:
            return True
        base, _, number = stem.rpartition("_")
        return bool(base) and number.isdecimal() and self._may_clash(base)


def _key(stem: str) -> int:
    """Case folded: some file systems do not tell ``x`` from ``X``."""
    return stable_hash(stem.casefold())
