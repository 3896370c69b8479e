"""How many classes masks have, where nobody said so."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from tqdm import tqdm

from ..errors import DataError
from ..threads import helpers
from .dataset import SegmentationData
from .faults import PairError, value_remedy
from .mask_coding import MaskCoding, distinct_values
from .mask_file import read_classes
from .pairs import Pair

#: Decoding releases the interpreter's lock.
THREADS = 4


def count_in_files(pairs: Sequence[Pair], coding: MaskCoding, *, progress: bool = False) -> int:
    """One more than the highest class in mask files.

    Raises:
        DataError: Values between which classes would be missing that nobody meant, a mask that
            cannot be read, or only one class.
    """
    found: set[int] = set()
    with helpers(THREADS, "segzoo-classes") as pool:
        read = pool.map(partial(_values_in, coding=coding), pairs)
        for values in tqdm(
            read, total=len(pairs), desc="classes", unit="mask", disable=not progress
        ):
            found |= values
    return _count(found, coding.ignore_index)


def count_in_items(*data: SegmentationData, ignore_index: int | None) -> int:
    """The same for any datasets; every item is read."""
    found: set[int] = set()
    for one in data:
        for index in range(len(one)):
            found |= _distinct(one[index][1])
    return _count(found, ignore_index)


def _values_in(pair: Pair, *, coding: MaskCoding) -> set[int]:
    try:
        return _distinct(read_classes(pair.mask, coding, pair.window))
    except PairError as error:
        raise error.of(pair.name) from None


def _distinct(mask: Tensor) -> set[int]:
    return set(distinct_values(mask.numpy()).tolist())


def _count(found: set[int], ignore_index: int | None) -> int:
    values = sorted(found - {ignore_index})
    if not values:
        raise DataError("The masks have no class at all: every pixel is void.")
    if values[0] < 0:
        raise DataError(f"The masks have the value {values[0]}. {value_remedy((values[0],), None)}")
    # 0 and 255, or the grey values of a palette: nobody has 256 classes of which two are there.
    gap = max(
        (after - before for before, after in zip([-1, *values], values, strict=False)), default=1
    )
    void = values[-1] == 255 and values[-2:-1] != [254]
    if gap > max(len(values), 2) or (void and len(values) > 1):
        shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise DataError(
            f"The masks have the values {shown}. {_remedy(values)} Or pass "
            f"classes={values[-1] + 1} if they are meant so."
        )
    if values[-1] == 0:
        raise DataError(
            "The masks have the value 0 only: nothing can be told apart. Pass classes=2 if the "
            "foreground is rare."
        )
    return values[-1] + 1


def _remedy(values: list[int]) -> str:
    inner = values[:-1]
    if values == [0, 255]:
        return value_remedy((255,), None)
    if values[-1] == 255 and inner == list(range(len(inner))):
        return "Pass ignore_index=255 if 255 is void (pixels that nobody labelled)."
    table = ", ".join(f"{old}: {new}" for new, old in enumerate(values[:6]))
    more = ", ..." if len(values) > 6 else ""
    return f"Pass label_map={{{table}{more}}} to number them from 0."
