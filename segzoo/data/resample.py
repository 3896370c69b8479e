"""Pictures and masks at another size: pictures smoothly, masks by their nearest pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture at another size, bilinear, with all pixels counted where it gets smaller.

    Args:
        image: ``(C, H, W)`` of any kind of values.
        size: ``(height, width)``.

    Returns:
        The same kind of values; integers are rounded.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    exact = image.dtype in (torch.float32, torch.float64, torch.uint8)  # torch resizes these itself
    values = image if exact else image.to(torch.float64)
    resized = F.interpolate(values[None], size=tuple(size), mode="bilinear", antialias=True)[0]
    if exact:
        return resized
    if image.is_floating_point():
        return resized.to(image.dtype)
    limits = torch.iinfo(image.dtype)
    return resized.round_().clamp_(limits.min, limits.max).to(image.dtype)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask ``(H, W)`` at another size: each pixel takes the class at its centre.

    Indices are counted in integers: sides of any length and values of any size stay exact.
    """
    height, width = mask.shape
    rows, columns = _centres(height, size[0]), _centres(width, size[1])
    return mask.index_select(0, rows).index_select(1, columns)


def _centres(before: int, after: int) -> Tensor:
    """The pixel in which the centre of each new one lies: ``floor((i + 1/2) before / after)``."""
    return (2 * torch.arange(after) + 1) * before // (2 * after)
