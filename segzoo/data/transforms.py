"""Augmentation of pictures with masks: any bands, any kind of values, drawn from a key.

Plain torch: a flip or a crop of a mask is exact by construction, void fills what is outside, and
16 bit and floating point values stay what they are.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .. import checks
from ..errors import ArgumentError
from .dataset import SegmentationData
from .mask_coding import as_labels
from .resample import resize_image, resize_mask

#: The longest side to train at, the one that :func:`segzoo.evaluate` still takes.
_MAX_SIDE = 65535


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to a picture and its mask before they are learned from.

    In this order: resized to ``size``, enlarged and cropped, flipped, and the picture's brightness
    and contrast changed. The picture keeps its kind of values, and is still to be normalised.

    Args:
        hflip: Mirror left and right half of the time.
        vflip: Mirror top and bottom half of the time: for views from above.
        scale: Range of a random enlargement, within 0.05 to 20, from the even distribution of its
            logarithm.
        crop: ``(height, width)`` of a random piece, up to 65535 each; None for the picture's own
            size. What lies outside of the picture becomes 0, void in the mask; without an
            ``ignore_index`` the enlargement is chosen so that nothing does.
        color: 0 to 1: how far brightness, contrast and each band's own gain may go; 0.4 is strong.
        rare_class_crops: Share of crops that are laid around a pixel of a class drawn evenly from
            those in the mask, so that rare classes are seen more often; for pictures much larger
            than the crop (a share of 0.33 in nnU-Net: Isensee et al. 2021, "nnU-Net: a
            self-configuring method").
        size: ``(height, width)`` to which everything is resized first, up to 65535 each; None for
            not at all.

    Raises:
        ArgumentError: A value out of its range.
    """

    hflip: bool = True
    vflip: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    color: float = 0.0
    rare_class_crops: float = 0.0
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        checks.flag("hflip", self.hflip)
        checks.flag("vflip", self.vflip)
        scale = checks.sequence("scale", self.scale, _scale, longest=2)
        if len(scale) != 2 or scale[0] > scale[1]:
            raise ArgumentError(
                f"scale must be (smallest, largest), got {checks.shown(self.scale)}."
            )
        object.__setattr__(self, "scale", scale)
        for name in ("color", "rare_class_crops"):
            share = checks.number(name, getattr(self, name), minimum=0, maximum=1)
            object.__setattr__(self, name, share)
        for name in ("crop", "size"):
            object.__setattr__(self, name, _height_and_width(name, getattr(self, name)))

    def arguments(self) -> dict[str, Any]:
        """The arguments as plain values, for JSON."""
        return asdict(self)

    def __call__(
        self,
        image: Tensor,
        mask: Tensor,
        *,
        generator: torch.Generator,
        ignore_index: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A changed picture with its mask; the inputs stay as they are.

        Args:
            image: ``(C, H, W)`` of uint8, uint16, another integer, or floating point.
            mask: ``(H, W)`` of classes.
            generator: Of the CPU; everything random is drawn from it.
            ignore_index: What void is in masks; None for no void.

        Returns:
            ``(C, h, w)`` of the same kind of values, and ``(h, w)``, whole numbers as int64.
        """
        ignore_index = checks.void("ignore_index", ignore_index)
        mask = as_labels(mask)
        if self.size is not None and tuple(mask.shape) != self.size:
            image, mask = resize_image(image, self.size), resize_mask(mask, self.size)
        if self.crop is not None or self.scale != (1.0, 1.0):
            image, mask = self._crop(image, mask, generator, ignore_index)
        flips = [-1] * (self.hflip and _chance(0.5, generator))
        flips += [-2] * (self.vflip and _chance(0.5, generator))
        if flips:
            image, mask = _flipped(image, flips), mask.flip(flips)
        if self.color:
            image = change_color(image, self.color, generator)
        return image, mask

    def _crop(
        self, image: Tensor, mask: Tensor, generator: torch.Generator, ignore_index: int | None
    ) -> tuple[Tensor, Tensor]:
        """A piece of the picture, enlarged: cut out first, so that only the piece is resized."""
        height, width = mask.shape
        crop = self.crop or (height, width)
        low, high = (torch.tensor(side, dtype=torch.float64).log() for side in self.scale)
        factor = float((low + (high - low) * _uniform(generator)).exp())
        if ignore_index is None:
            factor = max(factor, crop[0] / height, crop[1] / width)
        window = tuple(max(round(side / factor), 1) for side in crop)
        if ignore_index is None:
            window = (min(window[0], height), min(window[1], width))
        centre = None
        if self.rare_class_crops and _chance(self.rare_class_crops, generator):
            centre = _pixel_of_a_class(mask, generator, ignore_index)
        top, left = (
            _start(side, piece, generator, centre[axis] if centre else None)
            for axis, (side, piece) in enumerate(zip((height, width), window, strict=True))
        )
        image = _window(image, top, left, window, 0)
        mask = _window(mask, top, left, window, 0 if ignore_index is None else ignore_index)
        if window == crop:
            return image, mask
        return resize_image(image, crop), resize_mask(mask, crop)


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """A dataset whose items are a function of ``(seed, epoch, index)`` and of nothing else.

    So a loop that goes on where it was stopped sees what it would have seen, with any number of
    workers. Ask for ``augmented[epoch, index]``; a sampler yields such keys.

    Args:
        dataset: Anything with items of (image, mask).
        augmentation: What is done to them.
        seed: Of everything that is drawn.
        ignore_index: What void is in masks; None for no void.
    """

    def __init__(
        self,
        dataset: SegmentationData,
        augmentation: Augmentation,
        *,
        seed: int = 0,
        ignore_index: int | None = None,
    ) -> None:
        self.dataset, self.augmentation = dataset, augmentation
        self.seed = checks.integer("seed", seed, minimum=0, maximum=2**63 - 1)
        self.ignore_index = checks.void("ignore_index", ignore_index)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int], /) -> tuple[Tensor, Tensor]:
        epoch, index = key
        image, mask = self.dataset[index]
        return self.augmentation(
            image,
            mask,
            generator=keyed_generator(self.seed, epoch, index),
            ignore_index=self.ignore_index,
        )


def keyed_generator(*key: int) -> torch.Generator:
    """A generator of the CPU that depends on these numbers only.

    They are hashed: seeds that differ by one give Mersenne twisters that begin alike.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def change_color(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Another brightness and contrast, and a little more or less of each band.

    Args:
        image: ``(C, H, W)`` of any number of bands.
        strength: 0 to 1. Brightness and contrast are multiplied by 1 - strength to 1 + strength,
            each band alone by a quarter of that.
        generator: What is drawn from.

    Returns:
        The same kind of values; integers stay in their range.
    """
    bands = image.shape[0]
    drawn = torch.rand(2 + bands, generator=generator, dtype=torch.float64) * 2 - 1
    brightness, contrast = (1 + strength * drawn[:2]).tolist()
    gain = (1 + strength / 4 * drawn[2:, None, None]) * brightness
    # float32 has all integers of 16 bits; of more bits it rounds the largest to one that is none.
    small = image.is_floating_point() or image.dtype.itemsize <= 2
    kind = torch.float32 if small and image.dtype != torch.float64 else torch.float64
    mean = image.mean(dtype=kind) if image.is_floating_point() else image.to(kind).mean()
    factor, offset = (contrast * gain).to(kind), ((1 - contrast) * gain).to(kind) * mean
    if image.dtype != torch.uint8:
        return _affine(image, factor, offset)
    # 256 values are computed instead of every pixel: the same numbers, several times as fast.
    tables = _affine(torch.arange(256, dtype=torch.uint8).expand(bands, 1, -1), factor, offset)
    planes = [
        np.take(table[0], plane) for table, plane in zip(tables.numpy(), image.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(planes))


def _affine(values: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """``factor * values + offset`` in the values' own kind and range."""
    changed = (values.to(factor.dtype) * factor).add_(offset)
    if values.is_floating_point():
        return changed.to(values.dtype)
    limits = torch.iinfo(values.dtype)
    return changed.round_().clamp_(limits.min, limits.max).to(values.dtype)


def _pixel_of_a_class(
    mask: Tensor, generator: torch.Generator, ignore_index: int | None
) -> tuple[int, int] | None:
    """A random pixel of a random class of those in the mask; None where all is void."""
    flat = mask.flatten()
    labelled = flat if ignore_index is None else flat[flat != ignore_index]
    classes = torch.bincount(labelled).nonzero().flatten()
    if not len(classes):
        return None
    pixels = (flat == classes[_integer(len(classes), generator)]).nonzero()
    pixel = int(pixels[_integer(len(pixels), generator)])
    return pixel // mask.shape[1], pixel % mask.shape[1]


def _start(side: int, piece: int, generator: torch.Generator, pixel: int | None) -> int:
    """Where a piece begins: within the side, or the side within the piece; with that pixel."""
    low, high = min(0, side - piece), max(0, side - piece)
    if pixel is not None:
        low, high = max(low, pixel - piece + 1), min(high, pixel)
    return low + _integer(high - low + 1, generator)


def _window(values: Tensor, top: int, left: int, size: tuple[int, ...], fill: int) -> Tensor:
    """A piece of the last two axes; what lies outside is filled."""
    height, width = values.shape[-2:]
    rows = slice(max(top, 0), min(top + size[0], height))
    columns = slice(max(left, 0), min(left + size[1], width))
    inside = values[..., rows, columns]
    if inside.shape[-2:] == size:
        return inside.contiguous()
    result = values.new_full((*values.shape[:-2], *size), fill)
    y, x = rows.start - top, columns.start - left
    result[..., y : y + inside.shape[-2], x : x + inside.shape[-1]] = inside
    return result


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _flipped(image: Tensor, axes: list[int]) -> Tensor:
    """Flipped; not every torch flips uint16, so it goes as the signed integers of the same bits."""
    if image.dtype == torch.uint16:
        return image.view(torch.int16).flip(axes).view(torch.uint16)
    return image.flip(axes)


def _chance(share: float, generator: torch.Generator) -> bool:
    return _uniform(generator) < share


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


def _scale(name: str, value: Any) -> float:
    return checks.number(name, value, minimum=0.05, maximum=20)


def _height_and_width(name: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = checks.sequence(name, value, _side, longest=2)
    if len(sides) != 2:
        raise ArgumentError(f"{name} must be (height, width), got {checks.shown(value)}.")
    return sides[0], sides[1]


def _side(name: str, value: Any) -> int:
    return checks.integer(name, value, minimum=1, maximum=_MAX_SIDE)
