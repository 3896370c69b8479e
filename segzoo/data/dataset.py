"""Datasets of pictures and masks: what a loop reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from ..errors import InputError
from .faults import PairError, counted
from .mask_coding import Color, MaskCoding
from .mask_file import orientation, read_classes
from .pairs import Pair
from .pictures import to_bands
from .pixel_values import ValueRange
from .raster import open_raster
from .tiles import read_image


class SegmentationData(Protocol):
    """What can be trained on: anything with a length and items of (image, mask).

    The image is ``(C, H, W)`` of raw values as a file has them (uint8, uint16, floats in 0..1);
    the mask is ``(H, W)`` int64 of classes, or the ignore index where nobody labelled.
    """

    def __len__(self) -> int:
        """How many pairs there are."""

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """A picture and its mask."""


@dataclass(frozen=True)
class PairDataset:
    """Pairs of files as a dataset for any loop, made by :func:`segzoo.open_data`.

    It holds paths only, so it can be pickled and sent to workers. Each item is read when it is
    asked for, turned upright where its EXIF data says so, and checked. What a georeferenced file
    says is not known (nodata) is 0 in the picture, black whatever the ``value_range``, and void in
    the mask if there is void; without, the mask keeps the class that it has there.

    Attributes:
        pairs: The files.
        coding: How the values of masks become classes.
        bands: The bands to take, counted from 1; None for all.
        channels: How many bands an item has: grey is repeated for RGB, RGB becomes its luminance,
            alpha is left out; None for what the file has.
        value_range: The values that become 0 and 1; None where the files' type tells it.
        split: Which of several splits these are, where they lie in some: ``train``, ``val`` or
            ``test``.
        class_names: One for each class, or None.
        palette: A colour for each class, or None.
    """

    pairs: tuple[Pair, ...]
    coding: MaskCoding = field(default_factory=MaskCoding)
    bands: tuple[int, ...] | None = None
    channels: int | None = None
    value_range: ValueRange | None = None
    split: str | None = None
    class_names: tuple[str, ...] | None = None
    palette: tuple[Color, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each pair."""
        return tuple(pair.name for pair in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """The picture ``(C, H, W)`` as its file has it and the mask ``(H, W)``, int64.

        Raises:
            DataError: Sizes that differ, or a mask with values that are no class.
            InputError: A file that cannot be read.
        """
        pair = self.pairs[index]
        try:
            with open_raster(pair.image) as raster:
                info = raster.info
                _check_bands(info.bands, self.bands)
                image, unknown = read_image(raster, pair.window, self.value_range, self.bands)
            if self.bands is None:
                image = fit_bands(image, self.channels, alpha=info.alpha)
            mask = read_classes(pair.mask, self.coding, pair.window)
            _check_sizes(pair, image, mask)
        except PairError as error:
            raise error.of(pair.name) from None
        if unknown is not None and self.coding.ignore_index is not None:
            mask[unknown] = self.coding.ignore_index
        return image, mask


def _check_bands(given: int, bands: tuple[int, ...] | None) -> None:
    if bands is not None and max(bands) > given:
        raise PairError(
            "bands",
            f"there is no band {max(bands)}, the picture has {given}",
            "Choose others with bands=, counted from 1.",
        )


def fit_bands(
    picture: Tensor,
    channels: int | None,
    *,
    alpha: bool,
    remedy: str = "Make all pictures alike, or pass bands=(1, 2, 3), the numbers of those to take.",
) -> Tensor:
    """The bands of a picture that a model sees where nobody chose them; see :class:`PairDataset`.

    Args:
        picture: ``(C, H, W)``.
        channels: How many there are to be; None for what the picture has.
        alpha: Whether the last one is opacity.
        remedy: What to do where nothing tells which bands are meant.

    Raises:
        PairError: Nothing tells.
    """
    if channels is None:
        return picture
    try:
        return to_bands(picture, channels, alpha=alpha)
    except InputError:
        raise PairError(
            "bands",
            f"{counted(picture.shape[0], 'band')} instead of {channels}, and nothing tells which "
            "is which",
            remedy,
        ) from None


def _check_sizes(pair: Pair, image: Tensor, mask: Tensor) -> None:
    if image.shape[1:] == mask.shape:
        return
    sizes = different_sizes(image, mask)
    turned = orientation(pair.image) != orientation(pair.mask)
    if turned and image.shape[1:] == mask.T.shape:
        raise PairError(
            "turned",
            f"{sizes}: EXIF data turns the one and not the other",
            "Save both upright, without EXIF orientation.",
        )
    raise PairError("size", sizes, SAME_PIXELS)


SAME_PIXELS = "Both must show the same pixels."


def different_sizes(image: Tensor, mask: Tensor) -> str:
    """The two sizes in the words of a message."""
    one, other = (f"{item.shape[-2]}x{item.shape[-1]}" for item in (image, mask))
    return f"the image has {one} pixels, its mask {other} (height x width)"
