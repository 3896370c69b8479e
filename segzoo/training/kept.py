"""Pairs of files that stay in memory once they were read, as far as there is room.

An epoch reads what the epoch before has read. Small pictures are learned from in less time than
their files are unpacked in, so they are kept as the model gets them; what is kept is what would be
read, to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.dataset import PairDataset, SegmentationData
from ..data.resample import resize_image, resize_mask
from ..data.splits import Subset, names_of
from ..environment.machine import usable_memory
from .processes import launched_here

#: The part of the memory that the pairs of one split may take, in all processes together.
_SHARE = 1 / 16
#: Kinds in which a mask takes less room than as int64.
_SMALL = (torch.uint8, torch.int16, torch.int32)


class Kept:
    """A dataset of files with pictures, and perhaps masks, at one size; each read once.

    What comes first stays: where there is no room for all pairs, some are read each time. Datasets
    that are none of files are always asked, for theirs may be another picture each time.

    Args:
        data: Gives items of (image, mask).
        files: What it reads, by which it is known whether items can be kept.
        size: ``(height, width)`` of images; None for images as they are.
        masks: Whether masks get that size too.
        limit: Bytes that are kept at most.

    Attributes:
        used: Bytes that are kept.
    """

    def __init__(
        self,
        data: SegmentationData,
        files: SegmentationData,
        *,
        size: tuple[int, int] | None,
        masks: bool,
        limit: int,
    ) -> None:
        self.data, self.size, self.masks = data, size, masks
        self.limit = limit if is_of_files(files) else 0
        self.used = 0
        self._items: dict[int, tuple[Tensor, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A worker reads what it needs.
        return {**vars(self), "_items": {}, "used": 0}

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each item."""
        return names_of(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        found = self._items.get(index)
        if found is None:
            found = self._read(index)
            self._keep(index, *found)
        image, mask = found
        return image, mask.long()

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.data[index]
        if self.size is not None and tuple(image.shape[-2:]) != self.size:
            image = resize_image(image, self.size)
            mask = resize_mask(mask, self.size) if self.masks else mask
        return _by_itself(image), mask

    def _keep(self, index: int, image: Tensor, mask: Tensor) -> None:
        if self.used + image.nbytes > self.limit:
            return
        mask = _in_less_room(mask)
        if self.used + image.nbytes + mask.nbytes > self.limit:
            return
        self.used += image.nbytes + mask.nbytes
        self._items[index] = (image.clone(), mask)  # the reader may share it with a larger one


def is_of_files(data: SegmentationData) -> bool:
    """Whether a dataset reads files and gives the same item each time."""
    if isinstance(data, Subset):
        return is_of_files(data.dataset)
    return type(data) is PairDataset


def room_for_pairs(workers: int) -> int:
    """Bytes that a process may keep of one split; 0 where the memory is not known."""
    return int((usable_memory() or 0) * _SHARE / (launched_here() * max(workers, 1)))


def _by_itself(image: Tensor) -> Tensor:
    """The image without what lies around it in memory, such as a fourth band.

    It is done to an image that is not kept as well: resizing adds up as its pixels lie.
    """
    return image if image.untyped_storage().nbytes() == image.nbytes else image.clone()


def _in_less_room(mask: Tensor) -> Tensor:
    """The same whole numbers in the smallest kind that has them all."""
    low, high = (int(value) for value in mask.aminmax())
    for dtype in _SMALL:
        limits = torch.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return mask.to(dtype)
    return mask
