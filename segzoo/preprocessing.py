"""How pixels become what a backbone was trained on: data that travels with the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import checks
from .errors import ArgumentError, InputError


def _finite(name: str, value: float) -> float:
    return checks.number(name, value, minimum=-1e6, maximum=1e6)


@dataclass(frozen=True)
class Normalization:
    """``(x - mean) / std`` for each band, on values that were scaled to 0..1 before.

    Args:
        mean: One value for each band, in units of the 0..1 range.
        std: One positive value for each band, in the same units.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        mean = checks.sequence("mean", self.mean, _finite)
        std = checks.sequence("std", self.std, _finite)
        if not mean or len(mean) != len(std):
            raise ArgumentError(
                f"mean and std must have one value for each band; got {len(mean)} and {len(std)}."
            )
        if min(std) <= 0:
            raise ArgumentError(f"std must be positive, got {std}.")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def for_bands(self, bands: int) -> Normalization:
        """The same for another number of bands, matching how timm adapts its first convolution.

        timm sums the weights over RGB for one band, and repeats them in a cycle for more; so one
        band gets the average of the statistics, and more bands get them in a cycle.
        """
        if bands == len(self.mean):
            return self
        if bands == 1:
            count = len(self.mean)
            return Normalization((sum(self.mean) / count,), (sum(self.std) / count,))
        cycle = [i % len(self.mean) for i in range(bands)]
        return Normalization(tuple(self.mean[i] for i in cycle), tuple(self.std[i] for i in cycle))

    def __call__(self, image: Tensor) -> Tensor:
        """Scale and normalise a picture.

        Args:
            image: ``(..., C, H, W)``; uint8 (0..255), uint16 (0..65535), or floating point that
                is already in 0..1.

        Returns:
            A floating point tensor of the same shape, ready for the model.

        Raises:
            InputError: No tensor, another number of bands, or another integer type.
        """
        if not isinstance(image, Tensor):
            raise InputError(
                f"Expected a tensor (..., {len(self.mean)}, H, W), got {type(image).__name__}. "
                "Of an array torch.from_numpy makes one; its bands come first."
            )
        if image.ndim < 3 or image.shape[-3] != len(self.mean):
            raise InputError(
                f"Expected an image (..., {len(self.mean)}, H, W), one plane for each band of the "
                f"normalization; got the shape {tuple(image.shape)}."
            )
        if not image.is_floating_point():
            if image.dtype not in _INTEGER_SCALE:
                raise InputError(
                    f"Expected uint8, uint16 or floating point values, got {image.dtype}."
                )
            scale = _INTEGER_SCALE[image.dtype]
            # A tensor of its own, so the rest needs no more of them.
            image = image.to(torch.float32).div_(scale)
            return image.sub_(_planes(self.mean, image)).div_(_planes(self.std, image))
        return (image - _planes(self.mean, image)) / _planes(self.std, image)


def _planes(values: tuple[float, ...], image: Tensor) -> Tensor:
    """One value for each band, to compute with a picture."""
    return torch.tensor(values, dtype=image.dtype, device=image.device)[:, None, None]


_INTEGER_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0}

#: Used for a backbone that says nothing of its own statistics: pixels in 0..1 as they are.
IDENTITY = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
