"""Swin's blocks as their authors compute them: a map is padded to whole windows, then shifted.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021, section
3.2. timm shifts first, which is the same only where windows divide the map. transformers has the
authors' order, and models that come from it were trained in that.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ArgumentError
from ..features import ceil_div

#: What is added to the attention of cells that only the shift made neighbours.
_APART = -100.0


class PaddedFirst(nn.Module):
    """One of timm's Swin blocks; its layers keep their names.

    Args:
        block: It gives its layers away.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.window: tuple[int, int] = tuple(block.window_size)
        self.shift: tuple[int, int] = tuple(block.shift_size)
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C)`` -> the same shape."""
        x = x + self.drop_path1(self._attend(self.norm1(x)))
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1], x.shape[2]
        (tall, wide), (down, right) = self.window, self.shift
        rows, columns = ceil_div(height, tall), ceil_div(width, wide)
        x = F.pad(x, (0, 0, 0, columns * wide - width, 0, rows * tall - height))
        shifted = down > 0 or right > 0
        if shifted:
            x = torch.roll(x, shifts=(-down, -right), dims=(1, 2))
        mask = self._mask(x, rows, columns) if shifted else None
        made = self.attn(self._windows(x, rows, columns), mask=mask)
        channels = x.shape[-1]
        cells = made.view(-1, rows, columns, tall, wide, channels).transpose(2, 3)
        x = cells.reshape(-1, rows * tall, columns * wide, channels)
        if shifted:
            x = torch.roll(x, shifts=(down, right), dims=(1, 2))
        return x[:, :height, :width].contiguous()

    def _windows(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """``(N, H, W, C)`` -> ``(N * rows * columns, cells of a window, C)``."""
        tall, wide = self.window
        parts = x.reshape(-1, rows, tall, columns, wide, x.shape[-1]).transpose(2, 3)
        return parts.reshape(-1, tall * wide, x.shape[-1])

    def _mask(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """``(windows, cells, cells)``: 0, or a large negative number for cells that are apart."""
        regions = [
            (places >= side - window).to(x.dtype) + (places >= side - shift).to(x.dtype)
            for side, window, shift in zip(x.shape[1:3], self.window, self.shift, strict=True)
            for places in [torch.arange(side, device=x.device)]
        ]
        whole = 3 * regions[0][:, None] + regions[1][None, :]
        windows = self._windows(whole[None, :, :, None], rows, columns)[..., 0]
        apart = windows[:, None, :] != windows[:, :, None]
        return apart.to(x.dtype) * _APART


def pad_first(backbone: nn.Module) -> None:
    """Make the blocks of one of timm's Swin networks pad before they shift, in place.

    Raises:
        ArgumentError: It has no such blocks.
    """
    from timm.models.swin_transformer import SwinTransformerBlock

    found = [
        name for name, item in backbone.named_modules() if isinstance(item, SwinTransformerBlock)
    ]
    if not found:
        raise ArgumentError("pad_first is for Swin transformers; this encoder is none.")
    for name in found:
        parent, _, own = name.rpartition(".")
        block = PaddedFirst(backbone.get_submodule(name))
        setattr(backbone.get_submodule(parent), own, block)
