"""Every pair of a dataset read once: what it has, or what is wrong with it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..threads import helpers
from .dataset import SAME_PIXELS, PairDataset, SegmentationData, different_sizes
from .faults import PairError, counted, listed, value_remedy
from .fingerprint import tensor_key
from .mask_coding import histogram
from .mask_file import orientation
from .pairs import Pair
from .splits import DataSplits, Subset, names_of


@dataclass(frozen=True)
class PairFacts:
    """What one pair has.

    Attributes:
        split: Where it belongs.
        name: What it is known by.
        error: What is wrong with it, if anything; the rest is then empty.
        size: Height and width.
        kind: Of the picture's values: ``uint8``, ``float32`` ...
        values: The picture's smallest and largest value.
        pixels: How many pixels each class has.
        void: How many are void.
        key: A digest of the picture's pixels.
        turned: EXIF data turns the picture or its mask, and not the other.
        whole: The name of the picture, of which this may be a tile.
        blank: Every band of the picture has one value.
    """

    split: str
    name: str
    error: InputError | None = None
    size: tuple[int, int] = (0, 0)
    kind: str = ""
    values: tuple[float, float] = (0.0, 0.0)
    pixels: tuple[int, ...] = ()
    void: int = 0
    key: bytes = b""
    turned: bool = False
    whole: str = ""
    blank: bool = False


def inspect_splits(
    data: DataSplits, *, workers: int | None = None, progress: bool = False
) -> list[PairFacts]:
    """Read every pair once.

    Args:
        data: What :func:`segzoo.open_data` gives.
        workers: Threads; None for one a processor, up to four, where the items are files. A
            dataset of one's own is read by one thread.
        progress: Show a bar on stderr.
    """
    parts = {"train": data.train, "val": data.val, "test": data.test}
    keys = [
        _Item(split, part, index, name)
        for split, part in parts.items()
        if part is not None
        for index, name in enumerate(names_of(part))
    ]
    inspect = partial(_inspect, data=data)
    files = all(_is_files(part) for part in parts.values() if part is not None)
    threads = (workers or min(4, os.cpu_count() or 1)) if files else 1
    with helpers(threads, "segzoo-check") as pool:
        found = pool.map(inspect, keys)
        return list(
            tqdm(found, total=len(keys), desc="checking", unit="pair", disable=not progress)
        )


def _is_files(part: SegmentationData) -> bool:
    return isinstance(part, PairDataset) or (isinstance(part, Subset) and _is_files(part.dataset))


class _Item(NamedTuple):
    split: str
    part: SegmentationData
    place: int
    name: str


def _inspect(key: _Item, *, data: DataSplits) -> PairFacts:
    try:
        image, mask = key.part[key.place]
        _check_shapes(image, mask, data.in_channels)
        pixels, void = count_pixels(mask, data.classes, data.ignore_index)
        values = image.numpy()
        if values.size == 0:
            raise PairError("empty", "the picture has no pixel", "Leave it out.")
        lowest, highest = float(values.min()), float(values.max())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise PairError(
                "not finite",
                "the picture has values that are not finite (NaN or infinity)",
                "Fill them, with 0 say, and make the mask void there.",
            )
    except InputError as error:
        return PairFacts(key.split, key.name, error)
    pair = key.part.pairs[key.place] if isinstance(key.part, PairDataset) else None
    return PairFacts(
        split=key.split,
        name=key.name,
        size=(mask.shape[0], mask.shape[1]),
        kind=str(values.dtype),
        values=(lowest, highest),
        pixels=pixels,
        void=void,
        key=tensor_key(image),
        turned=pair is not None and _turned(pair),
        whole=key.name if pair is None else pair.whole,
        blank=_is_blank(image),
    )


def _is_blank(image: Tensor) -> bool:
    values = image.numpy()
    first = values[:, :1, :1]
    # Of most pictures a row is enough to tell.
    return bool((values[:, :1] == first).all() and (values == first).all())


def _check_shapes(image: Tensor, mask: Tensor, channels: int) -> None:
    """What a dataset of one's own may get wrong."""
    if image.shape[0] != channels:
        raise PairError(
            "bands",
            f"{counted(image.shape[0], 'band')} instead of {channels}",
            "Give all pictures the same bands.",
        )
    if image.shape[1:] != mask.shape:
        raise PairError("size", different_sizes(image, mask), SAME_PIXELS)


def count_pixels(
    mask: Tensor, classes: int, ignore_index: int | None
) -> tuple[tuple[int, ...], int]:
    """How many pixels of a mask each class has, and how many are void.

    Raises:
        PairError: Values that are no class.
    """
    counts = histogram(mask.numpy())
    void = 0 if ignore_index is None else counts.pop(ignore_index, 0)
    strange = tuple(sorted(value for value in counts if not 0 <= value < classes))
    if strange:
        raise PairError(
            "value",
            f"values that are no class: {listed(strange)}, classes are 0..{classes - 1}",
            value_remedy(strange, classes),
            values=strange,
        )
    return tuple(counts.get(index, 0) for index in range(classes)), void


def _turned(pair: Pair) -> bool:
    return orientation(pair.image) != orientation(pair.mask)
