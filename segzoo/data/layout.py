"""The folders and tables that people keep pictures in: which files belong to which split."""

from __future__ import annotations

import csv
import difflib
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import checks
from ..errors import ArgumentError, DataError, nearest
from ..files.atomic import read_text
from ..files.local import is_file, is_folder, listed
from .pairs import Pair, Pairing, composed, find_pairs
from .pictures import is_picture_name

#: Names of subfolders, and of the values in a column ``split``.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation")
_COLUMNS = ("image", "mask", "split", "group")
#: Share of letters (difflib's ratio) from which on a column must be one of ours, misspelt.
_NEAR = 0.7
#: Bytes of a table: some millions of pairs.
_LARGEST_TABLE = 2**29


@dataclass(frozen=True)
class Layout:
    """Where the pairs are.

    Attributes:
        splits: ``train``, and ``val`` and ``test`` where they are told apart.
        groups: Name -> group, where a table has them.
        folders: Where a file with the names of the classes may be, nearest first.
        notes: A sentence each on files that were left out.
        told: Whether folders or a table tell splits apart; else all pairs are ``train``.
    """

    splits: Mapping[str, tuple[Pair, ...]]
    groups: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    told: bool = False


def find_layout(
    images: Path, masks: Path | None, *, mask_suffix: str = "", to_train: bool = True
) -> Layout:
    """Read a table, or look how two folders or one are arranged.

    Args:
        images: A CSV; the folder of the pictures; or, without ``masks``, a folder with both.
        masks: The folder of the masks.
        mask_suffix: See :func:`~segzoo.data.pairs.find_pairs`.
        to_train: Whether there must be pairs to train on; else any split is enough.

    Raises:
        ArgumentError: The suffix is no string.
        DataError: Nothing there, or no arrangement that is known.
    """
    if not isinstance(mask_suffix, str):
        raise ArgumentError(f"mask_suffix must be a string, got {mask_suffix!r}.")
    if is_file(images):
        if images.suffix.lower() != ".csv":
            raise DataError(
                f"{images} is a file. Give the folder of the pictures, or a .csv with the columns "
                "image and mask."
            )
        if masks is not None:
            raise DataError(f"{images} names the masks, so {masks} cannot be given as well.")
        return read_table(images, to_train=to_train)
    for folder in (images, masks):
        if folder is not None and not is_folder(folder):
            raise DataError(f"There is no folder {folder}.{_similar(folder)}")
    if masks is None:
        return _one_folder(images, mask_suffix, to_train)
    return _two_folders(images, masks, mask_suffix, to_train)


def _similar(missing: Path) -> str:
    """A suggestion of folders beside it that are there."""
    try:
        return nearest(missing.name, [path.name for path in missing.parent.iterdir()])
    except OSError:
        return ""


def _one_folder(root: Path, mask_suffix: str, to_train: bool) -> Layout:
    """``root/images`` and ``root/masks``, or the two in each of ``root/train``, ``root/val``."""
    images, masks = _child(root, IMAGE_FOLDERS), _child(root, MASK_FOLDERS)
    if images and masks:
        layout = _two_folders(images, masks, mask_suffix, to_train)
        return replace(layout, folders=(*layout.folders, root))
    parts = _split_folders(root)
    if "train" not in parts and (to_train or not parts):
        wanted = "train/" if to_train else "test/, val/ or train/"
        raise DataError(
            f"{root} has neither images/ and masks/ nor {wanted} with the two in it. Give both "
            "folders: the pictures' and the masks'."
        )
    splits: dict[str, Pairing] = {}
    for split, folder in parts.items():
        images, masks = _child(folder, IMAGE_FOLDERS), _child(folder, MASK_FOLDERS)
        if images and masks:
            splits[split] = find_pairs(images, masks, mask_suffix=mask_suffix)
        elif mask_suffix:
            splits[split] = find_pairs(folder, folder, mask_suffix=mask_suffix)
        else:
            raise DataError(
                f"{folder} has no images/ and masks/. Pass mask_suffix='_mask' where pictures and "
                "masks lie side by side."
            )
    return _layout(splits, (root, *list(parts.values())[:1]), told=True)


def _two_folders(images: Path, masks: Path, mask_suffix: str, to_train: bool) -> Layout:
    """``images`` and ``masks``, or ``images/train`` with ``masks/train`` and so on."""
    folders = (masks, images, masks.parent)
    ours, theirs = _split_folders(images), _split_folders(masks)
    if "train" not in ours and (to_train or not ours or _has_pictures(images)):
        return _layout({"train": find_pairs(images, masks, mask_suffix=mask_suffix)}, folders)
    missing = [folder for split, folder in ours.items() if split not in theirs]
    if missing:
        raise DataError(
            f"{missing[0]} has no counterpart in {masks}; both need the same subfolders train, "
            "val and test."
        )
    return _layout(
        {
            split: find_pairs(folder, theirs[split], mask_suffix=mask_suffix)
            for split, folder in ours.items()
        },
        folders,
        told=True,
    )


def _inside(folder: Path) -> list[Path]:
    return listed(folder, kind=DataError)


def _has_pictures(folder: Path) -> bool:
    return any(is_file(path) and is_picture_name(path.name) for path in _inside(folder))


def _layout(
    found: Mapping[str, Pairing], folders: tuple[Path, ...], *, told: bool = False
) -> Layout:
    return Layout(
        {split: pairing.pairs for split, pairing in found.items()},
        folders=folders,
        notes=tuple(note for pairing in found.values() for note in pairing.notes),
        told=told,
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder below this one."""
    found: dict[str, Path] = {}
    for path in _inside(root):
        split = SPLITS.get(path.name.lower())
        if split is None or not is_folder(path):
            continue
        if split in found:
            raise DataError(f"{found[split]} and {path} both mean {split}; rename one.")
        found[split] = path
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _child(root: Path, names: tuple[str, ...]) -> Path | None:
    below = {path.name.lower(): path for path in _inside(root) if is_folder(path)}
    return next((below[name] for name in names if name in below), None)


def read_table(path: Path, *, to_train: bool = True) -> Layout:
    """Pairs from a CSV with the columns image and mask, and split and group if it likes.

    Paths are relative to the table's own folder, or absolute.

    Other columns are told as not used, unless they look like one of these.

    Raises:
        DataError: Columns that are missing, twice or misspelt, a file that is not there, a picture
            twice.
    """
    rows, notes = _rows(path)
    splits: dict[str, list[Pair]] = {}
    groups: dict[str, str] = {}
    taken: set[tuple[str, str]] = set()
    for line, row in rows:
        where = f"{path}, line {line}"
        files = {column: _file(path.parent, row, column, where) for column in ("image", "mask")}
        split = row.get("split", "").strip().lower() or "train"
        if split not in SPLITS:
            raise DataError(
                f"{where}: {split!r} is no split; train, val and test are.{nearest(split, SPLITS)}"
            )
        name = Path(composed(row["image"].strip())).with_suffix("").as_posix()
        if (SPLITS[split], name) in taken:
            raise DataError(f"{where}: the picture {name} is there twice.")
        taken.add((SPLITS[split], name))
        splits.setdefault(SPLITS[split], []).append(Pair(name, files["image"], files["mask"]))
        if "group" in row:
            groups[name] = composed(row["group"].strip()) or name
    if to_train and "train" not in splits:
        raise DataError(f"{path} has no pair to train on.")
    ordered: dict[str, tuple[Pair, ...]] = {
        key: tuple(splits[key]) for key in ("train", "val", "test") if key in splits
    }
    told = any(row.get("split", "").strip() for _, row in rows)
    return Layout(ordered, groups, (path.parent,), notes, told=told)


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], tuple[str, ...]]:
    """Line and cells of each row, and a sentence on columns that are not used."""
    try:
        text = read_text(path, largest=_LARGEST_TABLE, encoding="utf-8-sig")
        with io.StringIO(text, newline="") as file:
            head = file.readline()
            file.seek(0)
            # Spreadsheets write what the language of their country wants.
            delimiter = max(",;\t", key=head.count)
            reader = csv.DictReader(file, delimiter=delimiter)
            names = [name.strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            notes = _notes_on_columns(path, names)
            rows = []
            for row in reader:
                beyond = [cell for cell in row.pop(None, ()) if cell.strip()]
                if beyond:
                    raise DataError(
                        f"{path}, line {reader.line_num}: {checks.shown(beyond[0])} is in no "
                        "column. Name all of them in the first line, and put paths with a "
                        f"{delimiter!r} in quotes."
                    )
                cells = {k: v or "" for k, v in row.items() if k in _COLUMNS}
                rows.append((reader.line_num, cells))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    if not rows:
        raise DataError(f"{path} has no pair.")
    return rows, notes


def _notes_on_columns(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """What is said of the columns that are not used.

    Raises:
        DataError: One is missing, twice, or so near to one that is not there that it must be meant:
            pictures of a test split would else be trained on.
    """
    missing = [name for name in ("image", "mask") if name not in names]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}; its first line must name them: image,mask and, "
            f"if you like, split and group. It has: {', '.join(names) or 'nothing'}."
        )
    twice = [name for name in _COLUMNS if names.count(name) > 1]
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} twice; take one out.")
    others = [name for name in names if name not in _COLUMNS]
    absent = [name for name in _COLUMNS if name not in names]
    for name in others:
        meant = difflib.get_close_matches(name[:256], absent, n=1, cutoff=_NEAR)
        if meant:
            raise DataError(
                f"{path} has a column {checks.shown(name)}. Did you mean {meant[0]}? Name it so, "
                "or, if it is something else, so that it looks like none of image, mask, split and "
                "group."
            )
    if not others:
        return ()
    shown = ", ".join(name or "one without a name" for name in others[:8])
    more = ", ..." if len(others) > 8 else ""
    are = "1 column is" if len(others) == 1 else f"{len(others)} columns are"
    return (f"{are} not used of {path}: {shown}{more}.",)


def _file(folder: Path, row: Mapping[str, str], column: str, where: str) -> Path:
    text = row[column].strip()
    if not text:
        raise DataError(f"{where} names no {column}.")
    for name in (text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))):
        if is_file(folder / name):
            return folder / name
    raise DataError(
        f"{where}: there is no file {folder / text}. Paths are relative to the table's own folder."
    )
