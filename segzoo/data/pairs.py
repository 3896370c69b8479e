"""Pictures and their masks, found in folders: who belongs to whom."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from ..errors import DataError
from ..files.local import closed, is_folder
from .pictures import KINDS

#: Endings under which nobody expects a picture: not worth a word.
_OTHER_FILES = frozenset({".txt", ".json", ".csv", ".md", ".xml", ".yaml", ".yml", ".html", ""})


@dataclass(frozen=True)
class Window:
    """A part of a picture: rows ``top`` to ``bottom`` and columns ``left`` to ``right``, from 0."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Pair:
    """A picture and its mask.

    Attributes:
        name: What it is known by: the path below its folder without the ending, with ``/``.
        image: The picture's file.
        mask: The mask's file.
        window: The part of both that is meant; None for all.
        picture: Of a part, the name of the whole; empty for a whole.
    """

    name: str
    image: Path
    mask: Path
    window: Window | None = None
    picture: str = ""

    @property
    def whole(self) -> str:
        """The name of the picture, of which this may be a part."""
        return self.picture or self.name


@dataclass(frozen=True)
class Listing:
    """The picture files below a folder.

    Attributes:
        root: The folder.
        files: Name (path without the ending, in Unicode's composed form) -> file, by name.
        left_out: Ending -> how many files that are no pictures.
    """

    root: Path
    files: Mapping[str, Path]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Pairing:
    """Pairs, and what was passed over on the way.

    Attributes:
        pairs: By name.
        notes: A sentence each on files that were left out.
    """

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()


def list_files(root: Path, *, only: str = "", without: str = "") -> Listing:
    """The pictures in a folder and its subfolders; hidden files are passed over.

    Args:
        root: The folder. Links to folders are followed, each folder is visited once.
        only: Take names that end so, and cut it off.
        without: Leave out names that end so.

    Raises:
        DataError: No such folder, one that cannot be read, or two files of one name (``a.jpg`` and
            ``a.png``).
    """
    if not is_folder(root):
        raise DataError(f"There is no folder {root}.")
    only, without = composed(only), composed(without)
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in KINDS}
    found: dict[str, Path] = {}
    left_out: Counter[str] = Counter()
    for path in _walk(root):
        if path.suffix.lower() not in endings:
            left_out[path.suffix.lower()] += path.suffix.lower() not in _OTHER_FILES
            continue
        name = _name(path.relative_to(root))
        if not name.endswith(only) or (without and name.endswith(without)):
            continue
        name = name.removesuffix(only)
        if name in found:
            raise DataError(
                f"Two files of one name: {found[name]} and {path}. Which one is meant cannot be "
                "told; move one away."
            )
        found[name] = path
    return Listing(root, dict(sorted(found.items())), {k: n for k, n in left_out.items() if n})


def _walk(root: Path) -> Iterator[Path]:
    visited: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=_stop):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))
        if real in visited:  # a link that leads back
            below[:] = []
            continue
        visited.add(real)
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(folder) / name


def _stop(error: OSError) -> None:
    raise DataError(closed(error.filename, error)) from error


def _name(path: Path) -> str:
    return composed(PurePosixPath(path.with_suffix("")).as_posix())


def composed(name: str) -> str:
    """A name in Unicode's composed form, in which names are compared.

    Some systems store an accent apart from its letter; folders, tables and lists may come from two.
    """
    return unicodedata.normalize("NFC", name)


def find_pairs(images: Path, masks: Path, *, mask_suffix: str = "") -> Pairing:
    """The pairs of two folders: the same path below the folder, whatever the ending.

    Names must be the same; where they are not, they may differ in upper and lower case, if that
    leaves no doubt.

    Args:
        images: Folder of the pictures.
        masks: Folder of the masks; the same one works with a ``mask_suffix``.
        mask_suffix: What the names of masks have at their end and those of pictures have not.

    Raises:
        DataError: No picture at all, one without a mask, or two files of one name.
    """
    same = images.resolve() == masks.resolve()
    if same and not mask_suffix:
        raise DataError(
            f"{images} cannot hold both the pictures and the masks, unless the masks' names end "
            "in something that tells them apart: pass mask_suffix='_mask'."
        )
    pictures = list_files(images, without=mask_suffix if same else "")
    if not pictures.files:
        raise DataError(f"There are no pictures in {images}.{_left_out(pictures)}")
    labels = list_files(masks, only=mask_suffix)
    folded = _folded(labels.files)
    pairs, missing = [], []
    for name, image in pictures.files.items():
        mask = labels.files.get(name) or folded.get(name.casefold())
        if mask is None:
            missing.append(image)
        else:
            pairs.append(Pair(name, image, mask))
    if missing:
        raise DataError(_missing_message(missing, pictures, labels, mask_suffix))
    if len({pair.mask for pair in pairs}) < len(pairs):
        twice = _first_twice(pair.mask for pair in pairs)
        one, other = [pair.image for pair in pairs if pair.mask == twice][:2]
        raise DataError(
            f"The mask {twice} would belong to {one.name} and to {other.name}: names that differ "
            "in upper and lower case only. Rename one."
        )
    return Pairing(tuple(pairs), tuple(_notes(pairs, pictures, labels)))


def _notes(pairs: list[Pair], pictures: Listing, labels: Listing) -> Iterator[str]:
    used = {pair.mask for pair in pairs}
    idle = [path for path in labels.files.values() if path not in used]
    if idle:
        one = "1 mask belongs" if len(idle) == 1 else f"{len(idle)} masks belong"
        first = idle[0].relative_to(labels.root).as_posix()
        yield f"{one} to no picture and {_is(idle)} not used, the first {first}."
    for listing in (pictures, labels) if pictures.root != labels.root else (pictures,):
        if listing.left_out:
            yield f"{listing.root}:{_left_out(listing)}"


def _is(things: list[Path]) -> str:
    return "is" if len(things) == 1 else "are"


def _first_twice(values: Iterable[Path]) -> Path:
    return next(value for value, count in Counter(values).items() if count > 1)


def _folded(files: Mapping[str, Path]) -> dict[str, Path]:
    """Names without case, of those that stay apart."""
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for name, path in files.items():
        groups[name.casefold()].append(path)
    return {name: paths[0] for name, paths in groups.items() if len(paths) == 1}


def _missing_message(
    missing: list[Path], pictures: Listing, labels: Listing, mask_suffix: str
) -> str:
    count = len(pictures.files)
    first = missing[0].relative_to(pictures.root).as_posix()
    have = "has" if len(missing) == 1 else "have"
    message = f"{len(missing)} of {count} images {have} no mask, the first {first}."
    if not labels.files:
        suffix = f" that end in {mask_suffix!r}" if mask_suffix else ""
        return f"{message} There are no masks{suffix} in {labels.root}.{_left_out(labels)}"
    suffix = _common_suffix(pictures, labels, mask_suffix)
    if suffix:
        return f"{message} Masks end in {suffix!r}: pass mask_suffix={suffix!r}."
    prefix = _common_prefix(pictures, labels)
    if prefix:
        return f"{message} Masks begin with {prefix!r}: rename them, or name the pairs in a CSV."
    return (
        f"{message} A mask has the picture's name (the first mask is "
        f"{next(iter(labels.files.values())).name}). Move pictures without a mask away, or name "
        "the pairs in a CSV."
    )


def _common_suffix(pictures: Listing, labels: Listing, mask_suffix: str) -> str:
    """What most names of masks have after the name of a picture."""
    found: Counter[str] = Counter()
    for label in labels.files:
        for end in range(len(label) - 1, 0, -1):
            if label[:end] in pictures.files:
                found[label[end:] + mask_suffix] += 1
                break
    return _most(found, len(labels.files))


def _common_prefix(pictures: Listing, labels: Listing) -> str:
    """What most names of masks have before the name of a picture, in the same folder."""
    known = {PurePosixPath(name).name for name in pictures.files}
    found: Counter[str] = Counter()
    for label in labels.files:
        own = PurePosixPath(label).name
        for begin in range(1, len(own)):
            if own[begin:] in known:
                found[own[:begin]] += 1
                break
    return _most(found, len(labels.files))


def _most(found: Counter[str], count: int) -> str:
    text, times = found.most_common(1)[0] if found else ("", 0)
    return text if 2 * times > count else ""


def _left_out(listing: Listing) -> str:
    if not listing.left_out:
        return ""
    kinds = ", ".join(f"{ending} ({n})" for ending, n in sorted(listing.left_out.items()))
    return f" Files that are no pictures were left out: {kinds}."
