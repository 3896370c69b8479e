"""What decoders share that climb from an encoder's deepest map to the image, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..features import FeatureSpec, ceil_div, decoder_strides
from ..nn.activation_checkpoint import recomputed
from .decoder_config import JoiningConfig, checkpointed_blocks


class JoiningBlock(nn.Module):
    """A block that joins the map from below and its skip connection.

    Attributes:
        impl: How; one of :data:`~segzoo.architectures.decoder_config.DECODER_IMPLS`.
    """

    impl: str = "auto"


class ClimbingDecoder(nn.Module):
    """The way from the deepest map to the image, halving the stride from block to block.

    Wherever the encoder has a map at the stride that a block arrives at, that map is its skip
    connection. Sizes are those of the skips, or the image's size over the stride: never a guess of
    times two.

    Args:
        features: What the maps are, finest first, one at each stride.

    Attributes:
        strides: Where the blocks arrive; see :func:`~segzoo.features.decoder_strides`.
        skips: For each of these strides the index of the encoder's map that is the skip connection
            there, or None.
        checkpoint: How many of the last blocks keep only their inputs for the backward pass.
        blocks: In the order in which they run; a subclass fills it.
        channels: Width of each of the walk's blocks, deepest first.
        out: What the result is.
    """

    blocks: nn.ModuleList | nn.ModuleDict
    channels: tuple[int, ...]
    out: FeatureSpec

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        super().__init__()
        self.strides = decoder_strides(features)
        at = {feature.stride: i for i, feature in enumerate(features[:-1])}
        self.skips = tuple(at.get(stride) for stride in self.strides)
        self.checkpoint = 0

    def compute(self, config: JoiningConfig) -> None:
        """Set how the blocks compute from here on, and how many of the last keep nothing.

        Raises:
            ArgumentError: There are not that many blocks.
        """
        self.checkpoint = checkpointed_blocks(config, len(self.blocks))
        for block in self.blocks.children():
            assert isinstance(block, JoiningBlock)
            block.impl = config.decoder_impl

    def climb(self, x: Tensor, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Run the blocks, one for each of :attr:`strides`.

        Args:
            x: ``(N, C, h, w)``, at the stride of the deepest map.
            maps: Of ``features``.
            size: The image's ``(height, width)``.

        Returns:
            ``(N, C', *size)``.
        """
        assert isinstance(self.blocks, nn.ModuleList)
        walk = zip(self.blocks, self.skips, self.strides, strict=True)
        for i, (block, index, stride) in enumerate(walk):
            skip = None if index is None else maps[index]
            x = self.run(i, block, x, skip, self.target(skip, size, stride))
        return x

    def run(self, index: int, block: nn.Module, *inputs: Any) -> Tensor:
        """What a block gives; ``index`` counts the blocks in the order in which they run."""
        first = len(self.blocks) - self.checkpoint
        if index >= first and self.training and torch.is_grad_enabled():
            return recomputed(block, *inputs)
        out: Tensor = block(*inputs)
        return out

    def target(self, skip: Tensor | None, size: tuple[int, int], stride: int) -> tuple[int, int]:
        """The ``(height, width)`` that a block resizes to."""
        if stride == 1:
            return size
        if skip is None:
            return self.missing_size(size, stride)
        return skip.shape[-2], skip.shape[-1]

    def missing_size(self, size: tuple[int, int], stride: int) -> tuple[int, int]:
        """The size of a map at a stride where the encoder has none."""
        return ceil_div(size[0], stride), ceil_div(size[1], stride)
