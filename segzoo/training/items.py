"""Items of a dataset: looked at, and with errors that arrive as they were raised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from .. import checks
from ..data.dataset import SegmentationData
from ..data.splits import names_of
from ..errors import DataError, InputError, SegzooError


def as_pair(item: object) -> tuple[Tensor, Tensor]:
    """An item as an image and a mask.

    Raises:
        InputError: It is none.
    """
    if isinstance(item, (tuple, list)) and len(item) == 2:
        image, mask = item
        if isinstance(image, Tensor) and isinstance(mask, Tensor):
            return image, mask
    raise InputError(f"an item must be (image, mask), two tensors; got {checks.shown(item)}.")


def check_item(image: Tensor, mask: Tensor, bands: int) -> None:
    """Raise for an item that is no image of so many bands with its mask.

    Raises:
        InputError: Other shapes, bands or sizes, or a mask that is no integers.
    """
    if image.ndim != 3 or mask.ndim != 2 or mask.is_floating_point():
        raise InputError(
            f"expected an image (C, H, W) and a mask (H, W) of integers, got shapes "
            f"{tuple(image.shape)} and {tuple(mask.shape)}, the mask {mask.dtype}."
        )
    if len(image) != bands:
        raise InputError(f"the image has {len(image)} bands, the model takes {bands}.")
    if image.shape[-2:] != mask.shape:
        sizes = ["x".join(map(str, part.shape[-2:])) for part in (image, mask)]
        raise InputError(f"the image has {sizes[0]} pixels, its mask {sizes[1]} (height x width).")


def named(name: str, error: InputError | str) -> str:
    """What is wrong with an item, with its name: once, where the error begins with it.

    >>> named("a.png", "too small."), named("a.png", "a.png: too small.")
    ('a.png: too small.', 'a.png: too small.')
    """
    text = str(error)
    return text if text.startswith(f"{name}: ") else f"{name}: {text}"


@dataclass(frozen=True)
class Checked:
    """A dataset of which each item is looked at, before anything is cut or resized to fit.

    Attributes:
        data: The dataset.
        bands: Of every image.
    """

    data: SegmentationData
    bands: int

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each item."""
        return names_of(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        try:
            image, mask = as_pair(self.data[index])
            check_item(image, mask, self.bands)
        except InputError as error:
            raise DataError(named(self.names[index], error)) from None
        return image, mask


class Told(Dataset[Any]):
    """A dataset whose errors are items: of those that a worker raises only a text would arrive.

    A ``DataLoader`` gives them to :func:`collated`, and :func:`raised` raises them here.

    Args:
        data: The dataset.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Any, /) -> Any:
        try:
            return self.data[key]
        except SegzooError as error:
            return error


def collated(items: Sequence[Any], collate: Callable[[Sequence[Any]], Any]) -> Any:
    """Items put together, or the first error among them."""
    for item in items:
        if isinstance(item, SegzooError):
            return item
    try:
        return collate(items)
    except SegzooError as error:
        return error


def raised(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches, until one of them is an error."""
    for batch in batches:
        if isinstance(batch, SegzooError):
            try:
                raise batch
            finally:
                del batch  # which would hold its own traceback, and that the workers
        yield batch
