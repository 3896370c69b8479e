"""What can be wrong with one pair, said so that many of a kind can be told in one line."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DataError


class PairError(DataError):
    """A picture and a mask that do not make a pair.

    Attributes:
        kind: Pairs of one kind are counted together by the checks.
        detail: What this one has.
        remedy: What to do about all of the kind.
        values: The values or classes that the mask should not have, if it is that.
        name: Of the pair; empty where it is not known yet.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        remedy: str = "",
        *,
        values: tuple[int, ...] = (),
        name: str = "",
    ) -> None:
        self.kind, self.detail, self.remedy = kind, detail, remedy
        self.values, self.name = values, name
        text = f"{name}: {detail}." if name else f"{detail}."
        super().__init__(f"{text} {remedy}".rstrip())

    def of(self, name: str) -> PairError:
        """The same with the name of the pair."""
        return PairError(self.kind, self.detail, self.remedy, values=self.values, name=name)

    def __reduce__(self) -> tuple[object, ...]:  # errors cross to other processes by pickle
        return _made, (self.kind, self.detail, self.remedy, self.values, self.name)


def _made(kind: str, detail: str, remedy: str, values: tuple[int, ...], name: str) -> PairError:
    return PairError(kind, detail, remedy, values=values, name=name)


def value_remedy(values: tuple[int, ...], classes: int | None) -> str:
    """What to do about values of masks that are no class."""
    if values == (255,):
        both = "label_map={255: 1} if 255 is the class 1, or " if classes in (None, 2) else ""
        return f"Pass {both}ignore_index=255 if 255 is void (pixels that nobody labelled)."
    highest = max(values, default=0)
    if len(values) == 1:
        more = "" if highest < 0 else f", or classes={highest + 1}"
        return f"Pass ignore_index={values[0]} if that is void{more}."
    if min(values, default=0) < 0:
        return "Pass label_map={old: new} for them, and ignore_index for what is void."
    return f"Pass classes={highest + 1}, or label_map={{old: new}} to say which class each is."


def listed(values: Sequence[int]) -> str:
    """The first few of many values."""
    shown = ", ".join(map(str, values[:6]))
    return f"{shown}, ... ({len(values)} of them)" if len(values) > 6 else shown


def counted(number: int, thing: str) -> str:
    """``1 band``, ``2 bands``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
