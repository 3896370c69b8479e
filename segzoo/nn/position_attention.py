"""Attention of every cell of a map to every other, under one softmax over all pairs of cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activation_checkpoint import recomputed
from .full_precision import full_precision
from .graph_capture import in_graph
from .layers import zero_bias

#: Up to so many pairs of cells, over all images of a batch, are held in memory at once: 64 MiB in
#: float32. For one image and a stride of 32 that is 2048 x 2048 pixels.
AT_ONCE = 1 << 24


class PairwiseProduct(nn.Module):
    """``softmax(query^T key) value``, where one softmax runs over all pairs of cells.

    Pairs are ``(H * W) ** 2``. Where they are more than :data:`AT_ONCE`, rows of them are computed,
    used and forgotten one block after the other: the same values up to rounding, in memory that
    grows with ``H * W`` only. A graph that is recorded for another runtime, or compiled, holds all
    of them at once: it cannot choose by the size of its input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = _Rows()

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Maps ``(N, K, H, W)`` twice and ``(N, C, H, W)`` -> ``(N, C, H, W)``.

        What is computed for cell ``i`` is row ``i`` of a matrix ``(H * W, C)``, and that is read
        as ``(C, H, W)`` without transposing it: see :class:`PositionAttention`.
        """
        rows = query.flatten(2).transpose(1, 2)
        columns = key.flatten(2)
        cells = value.flatten(2).transpose(1, 2)
        if in_graph() or rows.shape[0] * rows.shape[1] ** 2 <= AT_ONCE:
            scores = torch.matmul(rows, columns)
            weights = F.softmax(scores.flatten(1), dim=1).view(scores.shape)
            out = torch.matmul(weights, cells)
        else:
            out = self._blockwise(rows, columns, cells)
        return out.reshape(value.shape)

    def _blockwise(self, rows: Tensor, columns: Tensor, cells: Tensor) -> Tensor:
        """The same in two passes over blocks of rows: the largest score, then all the rest."""
        count, size, _ = rows.shape
        # In float32 at least: half precision does not hold sums over all pairs.
        before, dtype = cells.dtype, torch.promote_types(cells.dtype, torch.float32)
        with full_precision(rows.device):
            rows, columns, cells = rows.to(dtype), columns.to(dtype), cells.to(dtype)
            blocks = rows.split(max(AT_ONCE // (count * size), 1), dim=1)
            # Subtracting it changes no result and no gradient: it only keeps exp within its range.
            with torch.no_grad():
                tops = [torch.matmul(block, columns).amax(dim=(1, 2)) for block in blocks]
                largest = torch.stack(tops).amax(dim=0)[:, None, None]
            # Beside the values a one, so that the sum of each row comes with its product.
            cells = F.pad(cells, (0, 1), value=1.0)
            found = torch.cat([self._run(block, columns, cells, largest) for block in blocks], 1)
            total = found[..., -1:].sum(dim=1, keepdim=True)
            return (found[..., :-1] / total).to(before)

    def _run(self, *inputs: Tensor) -> Tensor:
        # A backward pass would need all pairs, too, if each block kept its own.
        if torch.is_grad_enabled():
            return recomputed(self.rows, *inputs)
        out: Tensor = self.rows(*inputs)
        return out


class _Rows(nn.Module):
    """Some rows of the product, not divided by the sum yet."""

    def forward(self, rows: Tensor, columns: Tensor, cells: Tensor, largest: Tensor) -> Tensor:
        """``(N, R, K)``, ``(N, K, P)``, ``(N, P, C)`` and ``(N, 1, 1)`` -> ``(N, R, C)``."""
        return torch.matmul(torch.matmul(rows, columns).sub_(largest).exp_(), cells)


class PositionAttention(nn.Module):
    """Add to each cell what it attends to in all cells, then convolve.

    The position-wise attention block of Fan et al., "MA-Net: A Multi-Scale Attention Network for
    Liver and Tumor Segmentation", 2020, as segmentation_models_pytorch computes it. That differs
    from the usual attention in two places, and checkpoints are trained with both: one softmax runs
    over all pairs of cells, not over the cells that one cell attends to; and the product, a row of
    ``channels`` for each cell, is read as ``channels`` planes without transposing it.

    Pairs of cells are quadratic in the map's size; see :class:`PairwiseProduct` for how large maps
    are computed.

    Args:
        channels: Channels of the map.
        hidden: Channels of the query and of the key.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Conv2d(channels, hidden, 1)
        self.value = nn.Conv2d(channels, channels, 3, padding=1)
        self.product = PairwiseProduct()
        self.out = nn.Conv2d(channels, channels, 3, padding=1)
        for conv in (self.query, self.key, self.value, self.out):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            zero_bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> the same shape."""
        out: Tensor = self.out(x + self.product(self.query(x), self.key(x), self.value(x)))
        return out
