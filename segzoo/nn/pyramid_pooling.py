"""Pyramid pooling: every cell of a map is told what is around it, near and far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bin_pool import AdaptiveBins
from .layers import ConvNormAct

#: Bins along each side, of the four branches of the paper.
BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """A map beside its averages over ever finer grids, each projected and resized to the map.

    Zhao et al., "Pyramid Scene Parsing Network", 2017, section 3.2 and figure 3.

    Args:
        in_channels: Channels of the map.
        width: Width of each branch.
        norm: One of :data:`~segzoo.nn.layers.NORMS`.
        align_corners: How the averages are resized; torch's setting of that name.
        norm_of_one_bin: Whether the branch that averages the whole map has a norm too. Batch
            normalisation refuses it a single image in training: that has one value for a channel.
        map_first: Whether the map comes before its averages in the result, or behind them.
        bins: Bins along each side, one number for each branch.

    Attributes:
        out_channels: Channels of the result: those of the map and of all branches.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        norm: str,
        align_corners: bool,
        norm_of_one_bin: bool,
        map_first: bool,
        bins: Sequence[int] = BINS,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.map_first = map_first
        self.out_channels = in_channels + len(bins) * width
        self.pools = nn.ModuleList(AdaptiveBins(count) for count in bins)
        self.branches = nn.ModuleList(
            ConvNormAct(
                in_channels,
                width,
                kernel=1,
                norm=norm if count > 1 or norm_of_one_bin else "none",
            )
            for count in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        size = (x.shape[-2], x.shape[-1])
        parts = [
            F.interpolate(
                branch(pool(x)), size=size, mode="bilinear", align_corners=self.align_corners
            )
            for pool, branch in zip(self.pools, self.branches, strict=True)
        ]
        return torch.cat([x, *parts] if self.map_first else [*parts, x], dim=1)
