"""From what a mask's file holds to classes: numbers, other numbers, or colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .faults import PairError, counted, listed, value_remedy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.generic]
    Integers = NDArray[np.int64]

Color = tuple[int, int, int]

#: Up to here values are looked up in a table.
_TABLE = 65536


@dataclass(frozen=True)
class MaskCoding:
    """How the values of mask files become classes.

    Attributes:
        classes: Classes are 0 to ``classes`` - 1; None while they are being counted.
        ignore_index: What stands for void in the result, and in files with numbers; None for none.
        numbers: Value of a file -> class. Other values stay as they are, if no class is made from
            another value under that number.
        colors: The colours of RGB-coded files, and the class of each; None for files of numbers.
    """

    classes: int | None = None
    ignore_index: int | None = None
    numbers: tuple[tuple[int, int], ...] = ()
    colors: tuple[tuple[Color, int], ...] | None = None

    def with_classes(self, classes: int) -> MaskCoding:
        """The same for a number of classes that is known now."""
        return replace(self, classes=classes)

    def decode(self, stored: Tensor) -> Tensor:
        """Classes of the pixels.

        Args:
            stored: ``(C, H, W)``: the values in a file; with ``colors`` its RGB colours.

        Returns:
            ``(H, W)`` int64: classes, or ``ignore_index``.

        Raises:
            PairError: Values or colours that are no class.
        """
        if self.colors is not None:
            return self._from_colors(stored)
        values = _single_band(stored).numpy()
        if values.size == 0:
            return torch.from_numpy(values.astype(np.int64))
        distinct = distinct_values(values)
        targets = self.classes_of(distinct)
        if np.array_equal(distinct, targets):
            return torch.from_numpy(values.astype(np.int64))
        if distinct[0] >= 0 and distinct[-1] < _TABLE:
            table = np.zeros(int(distinct[-1]) + 1, dtype=np.int64)
            table[distinct] = targets
            return torch.from_numpy(table[values])
        return torch.from_numpy(targets[np.searchsorted(distinct, values)])

    def classes_of(self, distinct: Integers) -> Integers:
        """The class of each value of a file.

        Raises:
            PairError: Values that are no class.
        """
        numbers = dict(self.numbers)
        made = set(numbers.values())
        result, strange, doubtful = [], [], []
        for value in distinct.tolist():
            target = numbers.get(value, value)
            if target != self.ignore_index and (
                target < 0 or (self.classes is not None and target >= self.classes)
            ):
                strange.append(value)
            elif value not in numbers and value in made and value != self.ignore_index:
                doubtful.append(value)
            result.append(target)
        if strange:
            raise PairError(
                "value",
                f"values that are no class: {listed(strange)}{self._known()}",
                value_remedy(tuple(strange), self.classes),
                values=tuple(strange),
            )
        if doubtful:
            value = doubtful[0]
            old = next(key for key, new in numbers.items() if new == value)
            raise PairError(
                "unmapped",
                f"the value {value} is not in label_map, which makes class {value} of {old}",
                f"Add {value} to label_map, with the class that it is.",
                values=tuple(doubtful),
            )
        return np.array(result, dtype=np.int64)

    def _known(self) -> str:
        if self.classes is None:
            return ""
        return f", classes are 0..{self.classes - 1}" if self.classes > 1 else ", the class is 0"

    def _from_colors(self, stored: Tensor) -> Tensor:
        assert self.colors is not None
        if stored.shape[0] in (2, 4):  # alpha
            stored = stored[:-1]
        if stored.shape[0] == 1:
            stored = stored.expand(3, -1, -1)
        if stored.shape[0] != 3 or stored.dtype != torch.uint8:
            raise PairError(
                "colour",
                f"{counted(stored.shape[0], 'band')} of {stored.dtype}; a palette is of 8 bit RGB",
                "Leave palette out for masks of class numbers.",
            )
        codes = _packed(stored.numpy())
        known, targets = self._sorted_colors()
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        wrong = known[places] != codes
        if wrong.any():
            raise self._unknown_colors(codes[wrong])
        return torch.from_numpy(targets[places])

    def _sorted_colors(self) -> tuple[NDArray[np.int32], Integers]:
        assert self.colors is not None
        table = sorted((red << 16 | green << 8 | blue, n) for (red, green, blue), n in self.colors)
        return (
            np.array([code for code, _ in table], dtype=np.int32),
            np.array([target for _, target in table], dtype=np.int64),
        )

    def _unknown_colors(self, codes: NDArray[np.int32]) -> PairError:
        distinct, counts = np.unique(codes, return_counts=True)
        blurred = (
            " So many colours come from resizing or JPEG: save masks without either."
            if len(distinct) > 64
            else ""
        )
        return PairError(
            "unknown colour",
            f"{counted(int(counts.sum()), 'pixel')} of {counted(len(distinct), 'colour')} that the "
            f"palette lacks: {_shown_colors(distinct, counts)}",
            f"Add them to the palette, or map them to void there.{blurred}",
        )


def as_labels(mask: Tensor) -> Tensor:
    """Classes in the type that holds every void: among unsigned bytes -100 would become 156."""
    return mask if mask.is_floating_point() else mask.long()


def histogram(values: Values) -> dict[int, int]:
    """How often each integer is in an array, in ascending order."""
    if values.size == 0:
        return {}
    if values.dtype != np.uint8 and values.min() >= 0 and values.max() < 256:
        values = values.astype(np.uint8)
    if values.dtype == np.uint8:  # several times as fast as sorting
        counts = torch.from_numpy(values).flatten().bincount().tolist()
        return {value: count for value, count in enumerate(counts) if count}
    distinct, numbers = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), numbers.tolist(), strict=True))


def distinct_values(values: Values) -> Integers:
    """The distinct integers in an array, ascending.

    Raises:
        PairError: Values above those of int64.
    """
    found = list(histogram(values))
    if found and found[-1] > np.iinfo(np.int64).max:
        raise PairError(
            "value",
            f"values that are no class: {found[-1]}",
            "Save masks with one small number for each class.",
            values=(found[-1],),
        )
    return np.array(found, dtype=np.int64)


def _single_band(stored: Tensor) -> Tensor:
    """The plane with the numbers: ``(H, W)`` integers."""
    bands = stored.shape[0]
    if bands == 2:  # grey and alpha
        bands, stored = 1, stored[:1]
    if bands in (3, 4) and (stored[1:3].numpy() == stored[:1].numpy()).all():
        bands = 1
    if bands != 1:
        what = f"{bands} bands"
        if stored.dtype == torch.uint8 and bands < 5:
            codes, counts = np.unique(_packed(stored[:3].numpy()), return_counts=True)
            what = f"RGB, {counted(codes.size, 'colour')}: {_shown_colors(codes, counts)}"
        raise PairError(
            "colour",
            f"{what}; a mask holds class numbers",
            "Pass palette=, the colour of each class.",
        )
    plane = stored[0]
    if plane.is_floating_point():
        whole = plane.to(torch.int64)
        if not torch.equal(whole.to(plane.dtype), plane):
            raise PairError(
                "fraction",
                f"{plane.dtype} values that are no whole numbers; a mask holds class numbers",
                "Save masks as integers.",
            )
        return whole
    return plane


def _packed(rgb: Values) -> NDArray[np.int32]:
    """Colours as one number each: red in the highest byte."""
    bands = rgb.astype(np.int32)
    packed: NDArray[np.int32] = bands[0] << 16 | bands[1] << 8 | bands[2]
    return packed


def _shown_colors(codes: NDArray[np.int32], counts: NDArray[np.int64]) -> str:
    """The most frequent of many colours."""
    most = codes[np.argsort(-counts, kind="stable")[:4]].tolist()
    shown = ", ".join(f"({code >> 16}, {code >> 8 & 255}, {code & 255})" for code in most)
    return f"{shown}, ..." if codes.size > 4 else shown


def description(coding: MaskCoding) -> Mapping[str, object]:
    """A coding as plain values, for JSON."""
    return {
        "classes": coding.classes,
        "ignore_index": coding.ignore_index,
        "numbers": [list(item) for item in coding.numbers],
        "colors": None
        if coding.colors is None
        else [[list(color), target] for color, target in coding.colors],
    }
