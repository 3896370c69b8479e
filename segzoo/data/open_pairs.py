"""Pictures with masks that a model is scored on: all of them, no share kept apart."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files.local import path_of
from .bands import check_bands
from .class_coding import LabelMap, class_coding
from .dataset import PairDataset
from .layout import SPLITS, find_layout
from .pixel_values import check_range

#: Which split a model is scored on, the first that is there.
_SCORED = ("test", "val", "train")


def open_pairs(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None = None,
    *,
    classes: int | Sequence[str],
    mask_suffix: str = "",
    palette: Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str] | None = None,
    label_map: LabelMap | None = None,
    ignore_index: int | None = None,
    bands: Sequence[int] | None = None,
    value_range: Sequence[float] | None = None,
    channels: int | None = None,
) -> PairDataset:
    """Open pictures with masks in one piece.

    Where they lie in splits it is ``test``, else ``val``; else it is all of them.

    Args:
        images: As for :func:`segzoo.open_data`.
        masks: As there.
        classes: Their number or names, as the model has them.
        mask_suffix: As for :func:`segzoo.open_data`.
        palette: As there.
        label_map: As there.
        ignore_index: The value of void in masks.
        bands: The numbers of the bands to take, counted from 1; None for all.
        value_range: The values of pictures that become 0 and 1, as in training.
        channels: How many bands the model takes: grey is repeated, alpha left out.

    Raises:
        ArgumentError: Arguments that do not go together.
        DataError: No pairs, or pictures without a mask.
    """
    layout = find_layout(
        path_of("images", images),
        None if masks is None else path_of("masks", masks),
        mask_suffix=mask_suffix,
        to_train=False,
    )
    known = class_coding(
        classes=classes, palette=palette, label_map=label_map, ignore_index=ignore_index
    )
    split = next(name for name in _SCORED if name in layout.splits)
    if not layout.splits[split]:
        raise DataError(f"There are no pictures with masks in {images}.")
    return PairDataset(
        layout.splits[split],
        known.coding,
        check_bands(bands),
        channels,
        check_range(value_range),
        split if layout.told else _named(Path(images)),
        known.names,
        known.colors,
    )


def _named(folder: Path) -> str | None:
    """The split that a folder's name says, or that of the folder around it: ``val/images``."""
    names = (part.lower() for part in reversed(folder.absolute().parts[-2:]))
    return next((SPLITS[name] for name in names if name in SPLITS), None)
