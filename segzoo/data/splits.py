"""What is trained on, what it is scored on, and what is known of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .. import checks
from ..errors import DataError
from .class_coding import ClassCoding
from .classes import Color, read_class_names
from .count_classes import count_in_items
from .dataset import SegmentationData
from .fingerprint import fingerprint, items_key
from .mask_coding import MaskCoding
from .split import draw_share

#: Kept apart where nobody said how much.
VAL_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class DataSplits:
    """Pictures to train on, pictures to score on, and what both have in common.

    Made by :func:`segzoo.open_data` from files, and by :meth:`of` from datasets of your own.

    Attributes:
        train: To learn from.
        val: To choose the best model by; never learned from.
        test: For a last score; None for none.
        classes: Masks have 0 to ``classes`` - 1.
        class_names: One for each class, or None.
        in_channels: Bands of a picture.
        ignore_index: What void is in masks, or None.
        palette: A colour for each class, or None.
        description: What is known of the data, as plain values for JSON. Its ``fingerprint``
            changes when files, options or the split change.
    """

    train: SegmentationData
    val: SegmentationData
    test: SegmentationData | None
    classes: int
    class_names: tuple[str, ...] | None
    in_channels: int
    ignore_index: int | None
    palette: tuple[Color, ...] | None = None
    description: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        train: SegmentationData,
        val: SegmentationData | None = None,
        *,
        test: SegmentationData | None = None,
        classes: int | Sequence[str] | None = None,
        ignore_index: int | None = None,
        seed: int = 0,
    ) -> DataSplits:
        """Datasets of your own.

        Args:
            train: Anything with items of (image ``(C, H, W)``, mask ``(H, W)``).
            val: The same; None keeps a fifth of ``train`` apart, drawn by ``seed``.
            test: The same, or None.
            classes: Their number or names. None takes what ``train`` says of itself, as
                :class:`segzoo.RowsDataset` and :class:`segzoo.PairDataset` do (number, names and
                palette), or else reads every item to count them.
            ignore_index: What void is in masks; None for what ``train`` says of itself.
            seed: Of the share that is kept apart.

        Raises:
            ArgumentError: A seed, void or classes that cannot work.
            DataError: No items, or items that are no pictures with masks.
        """
        checks.integer("seed", seed, minimum=0, maximum=2**63 - 1)
        ignore_index = checks.void("ignore_index", ignore_index)
        known = coding_of(train)
        ignore_index = known.coding.ignore_index if ignore_index is None else ignore_index
        parts = {"train": train, "val": val, "test": test}
        for what, part in parts.items():
            if part is not None or what == "train":
                _check_items(part, what)
        drawn = val is None
        if val is None:
            names = names_of(train)
            places = draw_share(names, VAL_SHARE, seed=seed)
            kept = set(places)
            val = Subset(train, places)
            train = Subset(train, tuple(i for i in range(len(names)) if i not in kept))
        everything = [train, val, *([] if test is None else [test])]
        told = known.coding.classes
        if classes is not None:
            count, class_names = read_class_names(classes)
        elif told is not None:
            count, class_names = told, None
        else:
            count, class_names = count_in_items(*everything, ignore_index=ignore_index), None
        if class_names is None and count == told:
            class_names = known.names
        in_channels = train[0][0].shape[0]
        options = {
            "classes": count,
            "class_names": class_names,
            "ignore_index": ignore_index,
            "in_channels": in_channels,
            "seed": seed if drawn else None,
        }
        described = {"train": train, "val": val, "test": test}
        keys = {what: items_key(part) for what, part in described.items() if part is not None}
        description = {
            "source": type(parts["train"]).__name__,
            "counts": {what: len(part) for what, part in described.items() if part is not None},
            **options,
            "val": list(names_of(val)) if drawn else None,
            "fingerprint": fingerprint(keys, options),
        }
        return cls(
            train=train,
            val=val,
            test=test,
            classes=count,
            class_names=class_names,
            in_channels=in_channels,
            ignore_index=ignore_index,
            palette=known.colors if count == told else None,
            description=description,
        )


@dataclass(frozen=True)
class Subset:
    """Some items of a dataset."""

    dataset: SegmentationData
    places: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each item."""
        names = names_of(self.dataset)
        return tuple(names[place] for place in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        return self.dataset[self.places[index]]


def coding_of(data: object) -> ClassCoding:
    """What a dataset says of its own classes: nothing, of most."""
    if isinstance(data, Subset):
        return coding_of(data.dataset)
    coding = getattr(data, "coding", None)
    if not isinstance(coding, MaskCoding):
        return ClassCoding(MaskCoding())
    return ClassCoding(coding, getattr(data, "class_names", None), getattr(data, "palette", None))


def names_of(data: SegmentationData) -> tuple[str, ...]:
    """A dataset's own names of its items, or their numbers."""
    names = getattr(data, "names", None)
    if isinstance(names, (list, tuple)) and len(names) == len(data):
        return tuple(map(str, names))
    return tuple(map(str, range(len(data))))


def _check_items(data: Any, what: str) -> None:
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise DataError(
            f"{what} must have a length and items of (image, mask), got {checks.shown(data)}."
        )
    if len(data) == 0:
        raise DataError(f"{what} has no items.")
    item = data[0]
    if not (
        isinstance(item, (tuple, list))
        and len(item) == 2
        and all(isinstance(part, Tensor) for part in item)
    ):
        raise DataError(
            f"An item of {what} must be (image, mask), two tensors, got {checks.shown(item)}."
        )
    image, mask = item
    if image.ndim != 3 or mask.ndim != 2 or image.shape[1:] != mask.shape:
        raise DataError(
            f"An item of {what} has an image of shape {tuple(image.shape)} and a mask of shape "
            f"{tuple(mask.shape)}; expected (C, H, W) and (H, W) of the same height and width."
        )
    if mask.is_floating_point():
        raise DataError(f"The masks of {what} are {mask.dtype}; expected integers, mask.long().")
