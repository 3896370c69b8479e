"""Masks at points instead of all pixels, more of them where a mask is unsure.

Kirillov et al., "PointRend: Image Segmentation as Rendering", 2020, section 3.1; in the loss of
masks: Cheng et al., "Masked-attention Mask Transformer", 2022, section 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: A point is looked at in a map of 0 and 1; this much of it is all of it.
_ALL = 0.999


def values_at(maps: Tensor, points: Tensor) -> Tensor:
    """Values of maps at points, between cells bilinearly and outside of all cells 0.

    Args:
        maps: ``(M, h, w)``.
        points: ``(M, P, 2)`` or ``(1, P, 2)``: x and y, 0 to 1 over the whole map.

    Returns:
        ``(M, P)``.
    """
    grid = (2 * points - 1).to(maps.dtype).expand(len(maps), -1, -1)[:, :, None]
    found = F.grid_sample(maps[:, None], grid, mode="bilinear", align_corners=False)
    return found[:, 0, :, 0]


def counted_at(valid: Tensor, points: Tensor) -> Tensor:
    """1 where a point lies between pixels that all count, else 0; ``(M, P)``.

    Args:
        valid: ``(M, H, W)`` of 0 and 1.
        points: As for :func:`values_at`.
    """
    # A point at the edge of the image is between pixels of it and nothing.
    inside = values_at(torch.ones_like(valid), points)
    return (values_at(valid, points) >= _ALL * inside).to(valid.dtype)


@torch.no_grad()
def unsure_points(
    logits: Tensor,
    valid: Tensor | None,
    count: int,
    *,
    oversampled: float,
    unsure: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Points of each mask: most where its logits are nearest to 0, the others anywhere.

    Args:
        logits: ``(M, h, w)``.
        valid: ``(M, H, W)`` of 0 and 1: what counts; None where everything does.
        count: How many points for each mask.
        oversampled: Of how many times that number the unsure ones are chosen.
        unsure: Share of them that is chosen so.
        generator: On the device of the logits; None for torch's own.

    Returns:
        ``(M, count, 2)``.
    """
    masks, chosen = len(logits), int(unsure * count)
    points = drawn(masks, int(count * oversampled), logits, generator)
    sureness = values_at(logits, points).abs()
    if valid is not None:
        sureness = sureness.masked_fill(counted_at(valid, points) == 0, torch.inf)
    index = (-sureness).topk(chosen, dim=1).indices
    found = points.gather(1, index[..., None].expand(-1, -1, 2))
    if chosen == count:
        return found
    return torch.cat([found, drawn(masks, count - chosen, logits, generator)], dim=1)


def drawn(masks: int, count: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Points ``(masks, count, 2)`` anywhere in the image."""
    return torch.rand(masks, count, 2, generator=generator, device=like.device, dtype=like.dtype)
