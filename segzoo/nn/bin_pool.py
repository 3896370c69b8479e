"""Averages over a grid of bins, in graphs that serve every size too.

torch's adaptive pooling chooses its windows from the size that it sees, so an exported graph that
records it is right for that size only, or cannot be written at all. The same averages are products
with two small matrices, which a graph can make from any size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .graph_capture import in_export


class AdaptiveBins(nn.Module):
    """The average of each of ``bins`` x ``bins`` parts of a map.

    Bins are as equal as can be, and overlap where ``bins`` does not divide a side: bin ``i`` of a
    side of ``n`` cells begins at ``i n / bins`` rounded down and ends at ``(i + 1) n / bins``
    rounded up. A map may be smaller than its bins.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, C, bins, bins)``."""
        return adaptive_bins(x, self.bins)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return str(self.bins)


def adaptive_bins(x: Tensor, bins: int) -> Tensor:
    """``adaptive_avg_pool2d(x, bins)``; in a graph that leaves this process, by matrices.

    A single bin is a plain mean, which every runtime has.
    """
    if bins == 1 or not in_export():
        return F.adaptive_avg_pool2d(x, bins)
    rows, columns = (_means(side, bins, x) for side in x.shape[-2:])
    return rows @ x @ columns.transpose(0, 1)


#: One step of a symbolic trace: whether it is exported is known only when the trace is run.
fx.wrap("adaptive_bins")


def _means(side: int, bins: int, like: Tensor) -> Tensor:
    """The matrix ``(bins, side)`` that takes the averages along one side."""
    index = torch.arange(bins, device=like.device)
    first, last = index * side // bins, ((index + 1) * side + bins - 1) // bins
    cells = torch.arange(side, device=like.device)
    inside = (cells >= first[:, None]) & (cells < last[:, None])
    return inside.to(like.dtype) / (last - first)[:, None].to(like.dtype)
