"""Classes, palette, label map and void, as a person gives them, put together once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import checks
from ..errors import ArgumentError, UnknownNameError, nearest
from .classes import Color, Palette, read_class_names, read_palette
from .faults import value_remedy
from .mask_coding import MaskCoding

#: Old value or name of a palette -> class, name of a class, or None for void.
LabelMap = Mapping[int, int | str | None] | Mapping[str, int | str | None]


@dataclass(frozen=True)
class ClassCoding:
    """The classes of a data set.

    Attributes:
        coding: How masks become classes; ``coding.classes`` is None where only the masks can tell.
        names: One for each class, or None.
        colors: One for each class, or None.
    """

    coding: MaskCoding
    names: tuple[str, ...] | None = None
    colors: tuple[Color, ...] | None = None


def class_coding(
    *,
    classes: int | Sequence[str] | str | os.PathLike[str] | None = None,
    palette: Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str] | None = None,
    label_map: LabelMap | None = None,
    ignore_index: int | None = None,
) -> ClassCoding:
    """Put together what says how masks become classes; see :func:`segzoo.open_data`.

    Raises:
        ArgumentError: Values that do not go together.
        DataError: A file of names or colours that cannot be read.
    """
    ignore_index = checks.void("ignore_index", ignore_index)
    count, names = (None, None) if classes is None else read_class_names(classes)
    if count == 1:
        raise ArgumentError(
            "classes=1: masks have at least two, the background 0 and the foreground 1. Pass "
            "classes=2; a model with one logit (classes=1) learns from them, too."
        )
    changes = _label_map(label_map)
    if palette is not None:
        return _of_palette(read_palette(palette), count, names, changes, ignore_index)
    numbers = []
    for old, new in changes.items():
        if isinstance(old, str):
            raise ArgumentError(
                f"label_map has the name {old!r} as an old value; masks hold numbers. Names there "
                "are those of a palette."
            )
        numbers.append((old, _class(new, names, ignore_index)))
    _check_range(numbers, count, ignore_index)
    return ClassCoding(MaskCoding(count, ignore_index, tuple(numbers)), names)


def _label_map(label_map: LabelMap | None) -> dict[int | str, int | str | None]:
    if label_map is None:
        return {}
    if not isinstance(label_map, Mapping):
        raise ArgumentError(
            f"label_map must map old values to classes ({{255: 1}}), got {checks.shown(label_map)}."
        )
    result: dict[int | str, int | str | None] = {}
    for key, value in label_map.items():
        old: int | str = int(key) if isinstance(key, str) and _is_number(key) else key
        if isinstance(old, bool) or not isinstance(old, (int, str)):
            raise ArgumentError(f"label_map: {checks.shown(key)} is no value and no name.")
        if isinstance(value, bool) or not isinstance(value, (int, str, type(None))):
            raise ArgumentError(
                f"label_map[{old!r}] must be a class, the name of one, or None for void; got "
                f"{checks.shown(value)}."
            )
        if old in result:
            raise ArgumentError(f"label_map has {old!r} twice.")
        result[old] = value
    return result


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) < 12


def _class(value: int | str | None, names: Sequence[str] | None, ignore_index: int | None) -> int:
    if value is None:
        if ignore_index is None:
            raise ArgumentError(
                "label_map has None, which is void; pass ignore_index=255, or another number that "
                "is no class, to stand for it."
            )
        return ignore_index
    if isinstance(value, str):
        known = () if names is None else names
        if value not in known:
            hint = nearest(value, known) if known else " Pass classes=, their names."
            raise UnknownNameError(f"label_map: there is no class {value!r}.{hint}")
        return known.index(value)
    return value


def _check_range(
    numbers: Sequence[tuple[object, int]], count: int | None, ignore_index: int | None
) -> None:
    for old, new in numbers:
        if new != ignore_index and (new < 0 or (count is not None and new >= count)):
            upper = "" if count is None else f"..{count - 1}"
            raise ArgumentError(
                f"label_map makes {new} of {checks.shown(old)}; classes are 0{upper}."
            )


def _of_palette(
    palette: Palette,
    count: int | None,
    names: tuple[str, ...] | None,
    changes: Mapping[int | str, int | str | None],
    ignore_index: int | None,
) -> ClassCoding:
    changed = _changed_entries(palette, changes)
    by_name = palette.names is not None and not any(
        isinstance(value, int) for value in changed.values()
    )
    if by_name and (changed or names is not None):
        return _by_name(palette, count, names, changed, ignore_index)
    return _by_number(palette, count, names, changed, ignore_index)


def _changed_entries(
    palette: Palette, changes: Mapping[int | str, int | str | None]
) -> dict[int, int | str | None]:
    """Entry of the palette -> what a label map makes of it."""
    changed: dict[int, int | str | None] = {}
    for old, new in changes.items():
        if isinstance(old, int) and 0 <= old < len(palette.colors):
            changed[old] = new
        elif palette.names is not None and old in palette.names:
            changed[palette.names.index(str(old))] = new
        else:
            hint = nearest(str(old), palette.names or ())
            raise UnknownNameError(f"label_map: the palette has no {old!r}.{hint}")
    return changed


def _by_name(
    palette: Palette,
    count: int | None,
    names: tuple[str, ...] | None,
    changed: Mapping[int, int | str | None],
    ignore_index: int | None,
) -> ClassCoding:
    """Classes are the names of the palette, after the label map, without void."""
    assert palette.names is not None
    meant = [changed.get(index, name) for index, name in enumerate(palette.names)]
    if names is None:
        names = tuple(dict.fromkeys(str(name) for name in meant if name is not None))
        if count is not None and count != len(names):
            raise ArgumentError(
                f"classes={count}, and the palette with its label_map has {len(names)}: "
                f"{', '.join(names[:8])}. Pass the names of the classes, or leave classes out."
            )
    targets = []
    for index, name in enumerate(meant):
        if isinstance(name, str) and name not in names and index not in changed:
            if index != ignore_index:
                raise UnknownNameError(
                    f"The palette has {name!r}, which is no class.{nearest(name, names)} Add it "
                    f"to the classes, or pass label_map={{{name!r}: None}} if it is void."
                )
            name = None
        targets.append(_class(name, names, ignore_index))
    return _coded(palette, targets, len(names), names, ignore_index)


def _by_number(
    palette: Palette,
    count: int | None,
    names: tuple[str, ...] | None,
    changed: Mapping[int, int | str | None],
    ignore_index: int | None,
) -> ClassCoding:
    """Classes are the places in the palette, or the numbers that the label map gives them."""
    targets = [
        _class(changed.get(index, index), names, ignore_index)
        for index in range(len(palette.colors))
    ]
    made = {target for index, target in enumerate(targets) if index in changed}
    for index, target in enumerate(targets):
        if index not in changed and target in made and target != ignore_index:
            raise ArgumentError(
                f"label_map makes class {index} of another colour, and says nothing of the colour "
                f"{index} itself; add it."
            )
    if count is None:
        count = max((target for target in targets if target != ignore_index), default=-1) + 1
    if names is None and not changed and palette.names is not None and count <= len(palette.names):
        names = palette.names[:count]
    return _coded(palette, targets, count, names, ignore_index)


def _coded(
    palette: Palette,
    targets: Sequence[int],
    count: int,
    names: tuple[str, ...] | None,
    ignore_index: int | None,
) -> ClassCoding:
    entries = list(zip(palette.colors, targets, strict=True))
    if palette.spare:
        entries = [(c, n) for c, n in entries if 0 <= n < count or n == ignore_index]
    over = [n for _, n in entries if n != ignore_index and not 0 <= n < count]
    if over:
        raise ArgumentError(
            f"The palette has a colour for class {over[0]}, and classes are 0..{count - 1}. "
            f"{value_remedy((over[0],), count)}"
        )
    first: dict[int, Color] = {}
    for color, target in entries:
        first.setdefault(target, color)
    colors = tuple(first.get(index, (0, 0, 0)) for index in range(count))
    return ClassCoding(MaskCoding(count, ignore_index, colors=tuple(entries)), names, colors)
