"""Names and colours of classes from what people have: lists, JSON, text files, palettes."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .. import checks
from ..errors import ArgumentError, DataError, InputError
from ..files.atomic import open_ordinary, read_text
from ..files.local import is_file, path_of
from .readers.with_pillow import opened

Color = tuple[int, int, int]

MAX_CLASSES = 65536
#: Where names of classes are looked for, beside the masks.
CLASS_FILES = ("classes.txt", "classes.json")
_LARGEST = 16 * 2**20
_COLOR_LINE = re.compile(r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})(?:[\s,;]+(\S.*))?")
_HEX = re.compile(r"#?([0-9a-fA-F]{6})")


@dataclass(frozen=True)
class Palette:
    """The colours of classes, in their order.

    Attributes:
        colors: Red, green and blue, 0 to 255.
        names: One for each colour, or None.
        spare: The colours are those of a picture file, which may have more than there are classes.
    """

    colors: tuple[Color, ...]
    names: tuple[str, ...] | None = None
    spare: bool = False


def find_class_file(*folders: Path) -> Path | None:
    """A classes.txt or classes.json in one of these folders, the first that is there."""
    for folder in folders:
        for name in CLASS_FILES:
            if is_file(folder / name):
                return folder / name
    return None


def read_class_names(
    classes: int | Sequence[str] | str | os.PathLike[str],
) -> tuple[int, tuple[str, ...] | None]:
    """How many classes there are, and their names.

    Args:
        classes: A number; names in their order; or a file: text with a name a line, or JSON with
            a list of names, ``{"0": "sky"}`` or ``{"sky": 0}``.

    Raises:
        ArgumentError: Neither of these.
        DataError: A file that cannot be read as one.
    """
    if isinstance(classes, bool) or not isinstance(classes, (int, str, os.PathLike, Sequence)):
        raise ArgumentError(
            "classes must be a number, names or a file of names, got "
            f"{checks.shown(classes)} ({type(classes).__name__})."
        )
    if isinstance(classes, int):
        return checks.integer("classes", classes, minimum=1, maximum=MAX_CLASSES), None
    if isinstance(classes, (str, os.PathLike)):
        path = path_of("classes", classes)
        text = _text(path)
        names = (
            _names_of_json(path, text)
            if path.suffix.lower() == ".json"
            else [line.strip() for line in text.splitlines() if line.strip()]
        )
    else:
        names = list(classes)
    if not names:
        raise DataError(f"{checks.shown(classes)} names no class; give a name a line.")
    checked = checks.sequence("classes", names, checks.text, longest=MAX_CLASSES)
    _refuse_twice("classes", checked)
    return len(checked), checked


def read_palette(
    palette: Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str],
) -> Palette:
    """The colours of classes.

    Args:
        palette: Name -> colour; colours in the order of the classes; or a file: JSON with either,
            text with ``R G B name`` or ``name,R,G,B`` a line (with or without a heading), or a
            picture with a palette. A colour is three numbers or ``"#rrggbb"``.

    Raises:
        ArgumentError: No colours, or one twice.
        DataError: A file that cannot be read as one.
    """
    if isinstance(palette, (str, os.PathLike)):
        return _palette_file(path_of("palette", palette))
    return _palette_of("palette", palette)


def _palette_of(where: str, value: Any) -> Palette:
    names: tuple[str, ...] | None = None
    if isinstance(value, Mapping):
        names = tuple(checks.text(f"a name in {where}", name) for name in value)
        value = list(value.values())
    elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        entries = [
            {str(k).lower(): v for k, v in entry.items()} if isinstance(entry, Mapping) else {}
            for entry in value
        ]
        if not all("name" in entry and "color" in entry for entry in entries):
            raise ArgumentError(f"{where}: every entry needs a name and a color.")
        names = tuple(checks.text(f"a name in {where}", entry["name"]) for entry in entries)
        value = [entry["color"] for entry in entries]
    colors = checks.sequence(where, value, _color, longest=MAX_CLASSES)
    if not colors:
        raise ArgumentError(f"{where} has no colour.")
    _refuse_twice(where, colors)
    if names is not None:
        _refuse_twice(where, names)
    return Palette(colors, names)


def _color(name: str, value: Any) -> Color:
    if isinstance(value, str):
        match = _HEX.fullmatch(value)
        if match is None:
            raise ArgumentError(f'{name} must be "#rrggbb", got {checks.shown(value)}.')
        red, green, blue = bytes.fromhex(match[1])
        return red, green, blue
    parts = checks.sequence(name, value, _part, longest=3)
    if len(parts) != 3:
        raise ArgumentError(f"{name} must be (red, green, blue), got {checks.shown(value)}.")
    return parts[0], parts[1], parts[2]


def _part(name: str, value: Any) -> int:
    return checks.integer(name, value, minimum=0, maximum=255)


def _palette_file(path: Path) -> Palette:
    ending = path.suffix.lower()
    if ending == ".json":
        return _palette_of(str(path), _json(path, _text(path)))
    kind = Image.registered_extensions().get(ending)
    if kind in Image.OPEN:
        return _palette_of_picture(path)
    rows = [line for line in _text(path).splitlines() if line.strip()]
    found = [_color_line(line) for line in rows]
    if found and found[0] is None:
        found, rows = found[1:], rows[1:]  # a heading
    if not found or None in found:
        bad = rows[found.index(None)] if found else ""
        raise DataError(
            f"{path} is no palette: {checks.shown(bad)} is not 'R G B name' or 'name,R,G,B'."
        )
    entries = [entry for entry in found if entry is not None]
    names = [name for _, name in entries]
    colors = [color for color, _ in entries]
    if not all(names):
        return _palette_of(str(path), colors)
    _refuse_twice(str(path), names)
    return _palette_of(str(path), dict(zip(names, colors, strict=True)))


def _color_line(line: str) -> tuple[tuple[int, ...], str] | None:
    match = _COLOR_LINE.fullmatch(line.strip())
    if match:
        return tuple(int(part) for part in match.groups()[:3]), match[4] or ""
    try:
        cells = [cell.strip() for cell in next(csv.reader([line]))]
    except csv.Error:
        return None
    # Of more digits no number is made: Python refuses thousands of them.
    if len(cells) == 4 and all(cell.isdecimal() and len(cell) < 12 for cell in cells[1:]):
        return tuple(int(cell) for cell in cells[1:]), cells[0]
    return None


def _palette_of_picture(path: Path) -> Palette:
    try:
        with open_ordinary(path) as file, opened(file, path) as image:
            flat = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    except Exception as error:
        raise InputError(f"{path} cannot be read as a picture: {error}.") from error
    if not flat:
        raise DataError(
            f"{path} has no palette. Give a picture with one, or the colours: palette={{name: "
            "(red, green, blue)}}."
        )
    colors = [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]
    while len(colors) > 1 and colors[-1] in colors[:-1]:  # what fills it up
        colors.pop()
    _refuse_twice(str(path), colors)
    return Palette(tuple(colors), spare=True)


def _names_of_json(path: Path, text: str) -> list[str]:
    value = _json(path, text)
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value:
        if all(key.isdecimal() and len(key) < 12 for key in value):
            pairs = [(int(key), name) for key, name in value.items()]
        else:
            pairs = [(number, name) for name, number in value.items()]
        if all(type(number) is int for number, _ in pairs) and sorted(
            number for number, _ in pairs
        ) == list(range(len(pairs))):
            return [name for _, name in sorted(pairs)]
    raise DataError(
        f'{path} names no classes: expected a list of names, {{"0": "sky", ...}} or '
        '{"sky": 0, ...} with the numbers 0, 1, 2 and so on.'
    )


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}.") from error


def _text(path: Path) -> str:
    try:
        return read_text(path, largest=_LARGEST, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _refuse_twice(where: str, values: Sequence[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ArgumentError(f"{where} has {value!r} twice.")
        seen.add(value)
