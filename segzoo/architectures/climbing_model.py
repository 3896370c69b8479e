"""What U-Net, UNet++ and MA-Net share: blocks that climb to the image, and one head on the last."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch
from torch import Tensor

from ..config import ModelConfig
from ..nn.graph_capture import in_graph
from ..nn.layers import SegmentationHead
from ..nn.recomputed_norm import RecomputedNorms
from .base import SegmentationModel
from .climbing_decoder import ClimbingDecoder
from .decoder_config import NORMS_ONLY, JoiningConfig


class ClimbingModel(SegmentationModel):
    """A model whose decoder ends at the size of the image, with blocks of several implementations.

    Attributes:
        decoder: What :meth:`_complete_with` was given.
        head: From its last map to logits.
    """

    config: JoiningConfig
    decoder: ClimbingDecoder

    def _complete_with(self, decoder: ClimbingDecoder) -> None:
        """Add a decoder for :attr:`features` and a head; the config gets the widths that it has."""
        self.decoder = decoder
        self.head = SegmentationHead(
            decoder.out.channels, self.config.classes, dropout=self.config.dropout
        )
        self.config = replace(self.config, decoder_channels=decoder.channels)

    def set_computing(self, config: ModelConfig) -> None:
        """Make the decoder compute as the options of ``config`` that are not saved say."""
        assert isinstance(config, JoiningConfig)
        self.decoder.compute(config)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the image's size."""
        trains = self.training and torch.is_grad_enabled() and not in_graph()
        again = self.config.checkpoint == NORMS_ONLY and trains
        with RecomputedNorms() if again else contextlib.nullcontext():
            logits: Tensor = self.head(self.decoder(maps, (image.shape[-2], image.shape[-1])))
        return logits
