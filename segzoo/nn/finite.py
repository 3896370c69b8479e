"""Whether values are numbers: NaN and infinity make a model useless, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity.

    The extremes tell, much faster than a look at each value, and without a copy.
    """
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
        return True
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # torch has no extremes of 8-bit floats
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def first_infinite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that is not finite, or None where all are."""
    return next((name for name, tensor in tensors if not is_finite(tensor)), None)
