"""What the checks of data find, one function for each kind of finding."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .dataset import PairDataset, SegmentationData
from .faults import PairError, value_remedy
from .inspect_pairs import PairFacts
from .splits import DataSplits, names_of

ERROR, WARNING = "error", "warning"
#: Kinds of values that a model's normalization takes.
_KINDS = ("uint8", "uint16", "float16", "float32", "float64")


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: ``error``: do not train on this; or ``warning``: look at it.
        message: What was found, and what to do.
    """

    level: str
    message: str


def find_all(
    facts: Sequence[PairFacts],
    data: DataSplits,
    *,
    names: Sequence[str],
    shares: Mapping[str, tuple[float, ...]],
) -> tuple[Finding, ...]:
    """All findings, errors first.

    Args:
        facts: Of every pair.
        data: Where they come from.
        names: Of the classes.
        shares: Split -> the share of its pixels that each class has, void last.
    """
    good = [fact for fact in facts if fact.error is None]
    found = [
        *_broken_pairs(facts, data.classes),
        *_values(good),
        *_twice(good),
        *_labels(good, shares, names, data.ignore_index),
        *_frames(data),
        *_turned(good),
        *_notes(data),
    ]
    return tuple(sorted(found, key=lambda item: item.level != ERROR))


def _broken_pairs(facts: Sequence[PairFacts], classes: int) -> Iterator[Finding]:
    kinds: defaultdict[str, list[PairFacts]] = defaultdict(list)
    for fact in facts:
        if fact.error is not None:
            kinds[fact.error.kind if isinstance(fact.error, PairError) else "unread"].append(fact)
    for broken in kinds.values():
        first = broken[0].error
        count = "" if len(broken) == 1 else f"{len(broken)} of {len(facts)} pairs, the first "
        if not isinstance(first, PairError):
            yield Finding(ERROR, f"{count}{first}")
            continue
        remedy = first.remedy
        if first.kind == "value":
            values = {
                value
                for fact in broken
                if isinstance(fact.error, PairError)
                for value in fact.error.values
            }
            remedy = value_remedy(tuple(sorted(values)), classes)
        yield Finding(ERROR, f"{count}{broken[0].name}: {first.detail}. {remedy}".rstrip())


def _values(good: Sequence[PairFacts]) -> Iterator[Finding]:
    kinds = Counter(fact.kind for fact in good)
    if len(kinds) > 1:
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        rare = kinds.most_common()[-1][0]
        name = next(fact.name for fact in good if fact.kind == rare)
        yield Finding(
            ERROR,
            f"The pictures have different kinds of values ({shown}; {name} has {rare}). Save all "
            "of them alike.",
        )
    for kind in kinds:
        if kind not in _KINDS:
            yield Finding(
                ERROR,
                f"The pictures have {kind} values; models take 8 and 16 bit unsigned integers, and "
                "floating point from 0 to 1. Rescale and save them as one of these.",
            )
    lowest = min((fact.values[0] for fact in good), default=0.0)
    highest = max((fact.values[1] for fact in good), default=1.0)
    if all(kind.startswith("float") for kind in kinds) and (lowest < 0 or highest > 1):
        yield Finding(
            WARNING,
            f"The pictures' floating point values are from {lowest:g} to {highest:g}; a model's "
            "normalization is made for 0 to 1. Rescale them, or give the model a "
            "segzoo.Normalization with their own mean and standard deviation.",
        )
    if set(kinds) == {"uint16"} and highest < 16384:
        bits = max(int(highest), 1).bit_length()
        yield Finding(
            WARNING,
            f"The pictures have 16 bits, of which {bits} are used (up to {highest:g}): to a model "
            f"they are nearly black. Pass value_range=(0, {2**bits - 1}).",
        )


def _twice(good: Sequence[PairFacts]) -> Iterator[Finding]:
    same: defaultdict[bytes, list[PairFacts]] = defaultdict(list)
    for fact in good:
        # The blank corners of scans are all alike, and no score is better for one that was seen.
        if not fact.blank and any(fact.pixels):
            same[fact.key].append(fact)
    across, within = [], []
    for facts in same.values():
        if len({fact.split for fact in facts}) > 1:
            across.append((facts[0], next(f for f in facts if f.split != facts[0].split)))
        elif len(facts) > 1:
            within.append((facts[0], facts[1]))
    if across:
        one, other = across[0]
        yield Finding(
            ERROR,
            f"{_pictures(across)} in two splits, the first {one.name} in {one.split} as "
            f"{other.name} in {other.split}: scores would not be of unseen pictures. Take it out "
            "of one of them, or keep both on one side by group=.",
        )
    if within:
        one, other = within[0]
        yield Finding(
            WARNING,
            f"{_pictures(within)} there twice, the first {one.name} as {other.name} in "
            f"{one.split}.",
        )


def _pictures(things: Sequence[object]) -> str:
    return "1 picture is" if len(things) == 1 else f"{len(things)} pictures are"


def _labels(
    good: Sequence[PairFacts],
    shares: Mapping[str, tuple[float, ...]],
    names: Sequence[str],
    ignore_index: int | None,
) -> Iterator[Finding]:
    for split, share in shares.items():
        facts = [fact for fact in good if fact.split == split]
        present = [index for index, part in enumerate(share[:-1]) if part > 0]
        if facts and not present:
            yield Finding(ERROR, f"Every pixel of {split} is void. Is ignore_index right?")
            continue
        if split == "train" and len(present) == 1:
            yield Finding(
                ERROR,
                f"Every labelled pixel of train is {names[present[0]]}: there is nothing to learn.",
            )
            continue
        labelled = {fact.whole for fact in facts if any(fact.pixels)}
        # A tile without a label cannot be left out, the whole picture can.
        empty = list(dict.fromkeys(fact.whole for fact in facts if fact.whole not in labelled))
        if empty:
            masks = "1 mask is" if len(empty) == 1 else f"{len(empty)} masks are"
            yield Finding(
                WARNING, f"{masks} all void in {split}, the first {empty[0]}. Leave such out."
            )
        missing = [
            name
            for index, name in enumerate(names)
            if index not in present and index != ignore_index
        ]
        if facts:
            others = list(shares.values())
            there = [name for name in missing if any(other[names.index(name)] for other in others)]
            nowhere = [name for name in missing if name not in there]
            for part, elsewhere in ((there, True), (nowhere, False)):
                if part:
                    yield Finding(WARNING, _missing(split, part, elsewhere=elsewhere))


def _missing(split: str, missing: Sequence[str], *, elsewhere: bool) -> str:
    """What is said of classes without a pixel.

    Args:
        split: Where they have none.
        missing: Their names.
        elsewhere: Whether another split has them.
    """
    shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
    one = "1 class has" if len(missing) == 1 else f"{len(missing)} classes have"
    it = "it" if len(missing) == 1 else "them"
    drawn = f"Another seed=, or val= with names, may give {it} to {split}."
    if split != "train":
        why = f"Scores say nothing of {it}. {drawn}"
    elif elsewhere:
        why = f"A model never learns {it}, and is scored on {it} all the same. {drawn}"
    else:
        why = (
            f"A model never learns {it}. Label some, or leave {it} out of classes; where masks "
            f"have another value or colour for {it}, tell it by label_map or palette."
        )
    return f"{one} no pixel in {split}: {shown}. {why}"


def _frames(data: DataSplits) -> Iterator[Finding]:
    """Numbered pictures that were split one by one: frames of one video on both sides."""
    drawn = data.description.get("drawn")
    how = drawn.get("val") if isinstance(drawn, dict) else None
    if not isinstance(how, dict) or how.get("group"):
        return
    wholes = [
        {pair.whole for pair in part.pairs if pair.window is not None}
        for part in (data.train, data.val)
        if isinstance(part, PairDataset)
    ]
    if len(wholes) == 2 and wholes[0] & wholes[1]:
        yield Finding(
            WARNING,
            f"Parts of one picture ({min(wholes[0] & wholes[1])}) are in train and in val: they "
            "touch and look alike, so scores are too high. Give val a picture of its own.",
        )
        return
    names = [*_whole_names(data.train), *_whole_names(data.val)]
    begins = Counter(re.sub(r"\d+$", "", name) for name in names)
    if 1 < len(begins) <= len(names) / 5 and min(begins.values()) > 1:
        shown = ", ".join(f"{begin}..." for begin in sorted(begins)[:3])
        yield Finding(
            WARNING,
            f"The pictures are numbered in {len(begins)} series ({shown}). If a series is a video "
            "or one large picture, train and val show the same things and scores are too high; "
            "pass group='^(.*?)[0-9]+$' to keep each on one side.",
        )


def _whole_names(part: SegmentationData) -> Sequence[str]:
    """The names of pictures; of one that is cut into tiles its own, once."""
    if isinstance(part, PairDataset):
        return tuple(dict.fromkeys(pair.whole for pair in part.pairs))
    return names_of(part)


def _turned(good: Sequence[PairFacts]) -> Iterator[Finding]:
    turned = [fact.name for fact in good if fact.turned]
    if turned:
        pairs = "1 pair is" if len(turned) == 1 else f"{len(turned)} pairs are"
        yield Finding(
            WARNING,
            f"{pairs} turned by EXIF data on one side only, the first {turned[0]}: look whether "
            "the mask fits the picture as a viewer shows it. Save both upright if not.",
        )


def _notes(data: DataSplits) -> Iterator[Finding]:
    """Files that were left out when the pairs were found."""
    notes = data.description.get("notes")
    for note in notes if isinstance(notes, (list, tuple)) else ():
        yield Finding(WARNING, str(note))
