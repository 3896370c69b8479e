"""Items of a dataset as one batch, of equal or unequal sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import checks
from ..errors import DataError
from .mask_coding import as_labels


def collate(
    items: Sequence[tuple[Tensor, Tensor]], *, ignore_index: int | None = None
) -> tuple[Tensor, Tensor]:
    """Stack pictures and masks; where their sizes differ, fill up on the right and below.

    Args:
        items: Pairs of ``(C, H, W)`` and ``(H, W)``.
        ignore_index: What fills masks; pictures are filled with 0. None where sizes are equal.

    Returns:
        ``(N, C, H, W)`` and ``(N, H, W)``, whole numbers as int64.

    Raises:
        DataError: No item, pictures of different bands or kinds of values, or of different sizes
            without an ``ignore_index``.
    """
    ignore_index = checks.void("ignore_index", ignore_index)
    if not items:
        raise DataError("A batch needs at least one item.")
    images, masks = [image for image, _ in items], [as_labels(mask) for _, mask in items]
    kinds = {(image.shape[0], image.dtype) for image in images}
    if len(kinds) > 1:
        shown = " and ".join(sorted(f"{bands} bands of {dtype}" for bands, dtype in kinds))
        raise DataError(
            f"The pictures of a batch must be alike, got {shown}. Bring them to one number of "
            "bands (bands=3) and one kind of values."
        )
    sizes = {tuple(mask.shape) for mask in masks}
    if len(sizes) == 1:
        return torch.stack(images), torch.stack(masks)
    if ignore_index is None:
        shown = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:3])
        raise DataError(
            f"The pictures of a batch have {len(sizes)} sizes ({shown}). Give them one size (size= "
            "or crop= of the augmentation), take a batch size of 1, or pass an ignore_index to "
            "fill up masks with."
        )
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    image = images[0].new_zeros(len(items), images[0].shape[0], height, width)
    mask = masks[0].new_full((len(items), height, width), ignore_index)
    for index, (one, labels) in enumerate(zip(images, masks, strict=True)):
        image[index, :, : one.shape[1], : one.shape[2]] = one
        mask[index, : labels.shape[0], : labels.shape[1]] = labels
    return image, mask
