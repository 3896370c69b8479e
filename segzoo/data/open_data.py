"""Two folders, one folder or a table of files as data to train on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import checks
from ..errors import ArgumentError, DataError, nearest
from ..files.atomic import read_text
from ..files.local import path_of
from .bands import check_bands, most_bands
from .class_coding import ClassCoding, LabelMap, class_coding
from .classes import find_class_file
from .count_classes import count_in_files
from .dataset import PairDataset
from .fingerprint import fingerprint, pairs_key
from .layout import Layout, find_layout
from .mask_coding import description as coding_description
from .pairs import Pair, composed
from .pixel_values import check_range
from .split import draw_share, groups_of
from .splits import VAL_SHARE, DataSplits
from .tiles import check_tile, cut_into_tiles

#: Bytes of a list of pictures: ten million names of 50.
_LARGEST_LIST = 2**29
#: A share to draw, the names of those to take, or a text file with them.
Part = float | Sequence[str] | str | os.PathLike[str] | None


def open_data(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None = None,
    *,
    mask_suffix: str = "",
    classes: int | Sequence[str] | str | os.PathLike[str] | None = None,
    palette: Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str] | None = None,
    label_map: LabelMap | None = None,
    ignore_index: int | None = None,
    bands: Sequence[int] | None = None,
    value_range: Sequence[float] | None = None,
    tile: int | tuple[int, int] | None = None,
    val: Part = None,
    test: Part = None,
    group: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> DataSplits:
    """Open pictures with masks: nothing is read into memory before it is asked for.

    Args:
        images: The folder of the pictures, with subfolders if you like; a CSV with the columns
            image and mask (and split and group); or without ``masks`` a folder that has
            ``images/`` and ``masks/``, or ``train/`` and ``val/`` with the two in each.
        masks: The folder of the masks, each under its picture's name. Both folders may have
            subfolders ``train``, ``val`` and ``test``.
        mask_suffix: What the names of masks have at their end: ``"_mask"`` for ``a_mask.png``.
        classes: Their number, their names, or a file of names (see
            :func:`~segzoo.data.classes.read_class_names`). None takes a classes.txt or
            classes.json beside the masks, the palette's names, or counts what the masks have.
        palette: The colour of each class, for masks that are coloured pictures: ``{"road": (128,
            64, 128)}``, a file of colours, or a picture whose palette it is.
        label_map: Old value -> class, its name, or None for void: ``{255: 1}``. With a palette
            its names and places are the old values. Values that are not named stay as they are.
        ignore_index: The value of void, pixels that nobody labelled: often 255.
        bands: The numbers of the bands to take, counted from 1; None for all but alpha.
        value_range: The values of pictures that become 0 and 1, for types that do not tell (signed
            and floating point numbers, more than 16 bits) or do not use their range: ``(0, 4095)``
            for 12 bits.
        tile: A side, or ``(height, width)``: pictures that are larger are cut into parts of at most
            that size, each an item of its own; TIFF files are read part by part. The parts of a
            picture are kept on one side of a split, unless there is but one picture.
        val: Where there is no val split: a share of the pictures (0.2 if left), names, or a text
            file with a name a line. Both shares, this one and that of ``test``, are of all pictures
            that are in no split yet and that nobody named.
        test: The same; none if left.
        group: A regular expression that finds in a picture's name what it belongs to: frames of
            one video are then never on both sides. A column ``group`` of a CSV does the same.
        seed: Of the shares.
        progress: Show a bar while classes are counted.

    Raises:
        ArgumentError: Arguments that do not go together.
        DataError: No pairs, pictures without a mask, masks that do not tell their classes, or too
            few pictures for a split.
    """
    source = (path_of("images", images), None if masks is None else path_of("masks", masks))
    checks.integer("seed", seed, minimum=0, maximum=2**63 - 1)
    layout = find_layout(*source, mask_suffix=mask_suffix)
    size = check_tile(tile)
    layout = replace(
        layout, splits={name: cut_into_tiles(part, size) for name, part in layout.splits.items()}
    )
    splits, drawn = _split(layout, val=val, test=test, group=group, seed=seed)
    everything = [pair for pairs in splits.values() for pair in pairs]
    known = _classes(layout, classes, palette, label_map, ignore_index, everything, progress)
    chosen, bounds = check_bands(bands), check_range(value_range)
    channels = most_bands(everything) if chosen is None else len(chosen)
    data = {
        name: PairDataset(
            pairs,
            known.coding,
            chosen,
            channels,
            bounds,
            class_names=known.names,
            palette=known.colors,
        )
        for name, pairs in splits.items()
    }
    assert known.coding.classes is not None
    options = {
        "coding": coding_description(known.coding),
        "class_names": known.names,
        "bands": chosen and list(chosen),
        "value_range": bounds and list(bounds),
        "tile": size and list(size),
        "drawn": drawn,
    }
    description = {
        "source": {"images": os.fspath(images), "masks": masks and os.fspath(masks)},
        "mask_suffix": mask_suffix,
        "counts": {name: len(pairs) for name, pairs in splits.items()},
        "classes": known.coding.classes,
        "ignore_index": ignore_index,
        "in_channels": channels,
        **options,
        **{name: list(data[name].names) for name in drawn if name in data},
        "notes": list(layout.notes),
        "fingerprint": fingerprint(
            {name: pairs_key(pairs) for name, pairs in splits.items()}, options
        ),
    }
    return DataSplits(
        train=data["train"],
        val=data["val"],
        test=data.get("test"),
        classes=known.coding.classes,
        class_names=known.names,
        in_channels=channels,
        ignore_index=ignore_index,
        palette=known.colors,
        description=description,
    )


def _classes(
    layout: Layout,
    classes: Any,
    palette: Any,
    label_map: LabelMap | None,
    ignore_index: int | None,
    pairs: Sequence[Pair],
    progress: bool,
) -> ClassCoding:
    if classes is None and palette is None:
        classes = find_class_file(*layout.folders)
    known = class_coding(
        classes=classes, palette=palette, label_map=label_map, ignore_index=ignore_index
    )
    if known.coding.classes is not None:
        return known
    count = count_in_files(pairs, known.coding, progress=progress)
    return replace(known, coding=known.coding.with_classes(count))


def _split(
    layout: Layout, *, val: Part, test: Part, group: str | None, seed: int
) -> tuple[dict[str, tuple[Pair, ...]], dict[str, object]]:
    """The pairs of each split, and of those that were made here how."""
    splits = dict(layout.splits)
    wanted = {"test": test, "val": VAL_SHARE if val is None and "val" not in splits else val}
    wanted = {what: part for what, part in wanted.items() if part is not None}
    if group is not None and layout.groups:
        raise ArgumentError("group= was given, and the table has a column group; leave one out.")
    for what in wanted:
        if what in splits:
            raise ArgumentError(
                f"{what}= was given, and the data have a split {what} already; leave one out."
            )
    shares = {
        what: checks.number(what, part, minimum=0.0001, maximum=0.9999)
        for what, part in wanted.items()
        if isinstance(part, (int, float))
    }
    if group is not None and not shares:
        raise ArgumentError(
            "group= is for a share that is drawn, and these data are split already."
        )
    if sum(shares.values()) >= 1:
        told = " and ".join(f"{what}={share:g}" for what, share in shares.items())
        raise ArgumentError(
            f"{told} leave nothing to train on; both are shares of all pictures. Make one smaller."
        )
    drawn: dict[str, object] = {}
    # Those that are named first: a draw must not take them.
    for what in (name for name in wanted if name not in shares):
        _keep_apart(splits, what, _named(splits["train"], wanted[what], what))
        drawn[what] = "named"
    count = len(splits["train"])
    for what, share in shares.items():
        groups = _groups(splits["train"], layout.groups, group)
        places = draw_share(groups, share, seed=seed, what=what, of=count)
        _keep_apart(splits, what, set(places))
        drawn[what] = {"share": share, "seed": seed, "group": group or bool(layout.groups)}
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}, drawn


def _keep_apart(splits: dict[str, tuple[Pair, ...]], what: str, places: set[int]) -> None:
    """Move pairs at these places of train to another split."""
    pairs = splits["train"]
    splits[what] = tuple(pair for i, pair in enumerate(pairs) if i in places)
    splits["train"] = tuple(pair for i, pair in enumerate(pairs) if i not in places)


def _groups(
    pairs: Sequence[Pair], table: Mapping[str, str], group: str | None
) -> tuple[str, ...] | list[str]:
    """What each pair must stay together with: its tiles, unless all are of one picture."""
    several = len({pair.whole for pair in pairs}) > 1
    own = [pair.whole if several else pair.name for pair in pairs]
    if group is not None:
        return groups_of(own, group)
    return [table.get(pair.whole, name) for pair, name in zip(pairs, own, strict=True)]


def _named(pairs: Sequence[Pair], part: Any, what: str) -> set[int]:
    """The places of pictures that were named: with or without their ending."""
    if isinstance(part, (str, os.PathLike)):
        path = path_of(what, part)
        try:
            text = read_text(path, largest=_LARGEST_LIST, encoding="utf-8-sig")
            part = [line.strip() for line in text.splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{what}: the file {path} cannot be read: {error}.") from error
    if not isinstance(part, Iterable):
        raise ArgumentError(
            f"{what} must be a share (0.2), names or a text file with names; got "
            f"{checks.shown(part)}."
        )
    given = checks.sequence(what, [name for name in part if name], _name, longest=10**7)
    known: dict[str, set[int]] = {}
    for place, pair in enumerate(pairs):
        for name in (pair.name, pair.whole, f"{pair.whole}{pair.image.suffix}"):
            known.setdefault(name, set()).add(place)
    names = [composed(name) for name in given]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"{what} names {unknown[0]!r}, which is no picture here."
            f"{nearest(unknown[0], [pair.name for pair in pairs[:1000]])}"
        )
    places = {place for name in names for place in known[name]}
    if not places or len(places) == len(pairs):
        raise DataError(f"{what} names {len(places)} of {len(pairs)} pictures; some must be left.")
    return places


def _name(where: str, value: Any) -> str:
    return checks.text(where, value, longest=4096)
