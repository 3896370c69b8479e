"""A linear head on any encoder: what features are worth by themselves, or a frozen backbone's use.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, section 7.4 (the
linear one, without larger images and views): maps are brought to one size, concatenated, normalised
over the batch, and a 1x1 convolution gives logits, which are resized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig, built_from
from ..features import FeatureSpec
from ..nn.layers import SegmentationHead, norm_layer
from ..registry import register_architecture
from .base import SegmentationModel
from .decoder_config import DecoderConfig
from .wants import Wants

#: Finer maps are left out: joined maps have the size of the finest, and all their channels.
_FINEST = 4


@dataclass(frozen=True, kw_only=True)
class LinearHeadConfig(DecoderConfig):
    """Arguments of :class:`LinearHead`: those that decoders share.

    Args:
        norm: Of the joined maps: ``batch`` as in the paper, ``group``, ``instance``, ``layer`` or
            ``none``.
        dropout: Probability of dropping a plane of the joined maps, 0 to 1.
    """


class Join(nn.Module):
    """Maps at the size of the first, concatenated: a module, so that it is a step of its own."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(N, C_i, h_i, w_i)`` -> ``(N, sum of C_i, h_0, w_0)``."""
        size = (maps[0].shape[-2], maps[0].shape[-1])
        others = [
            F.interpolate(item, size=size, mode="bilinear", align_corners=False)
            for item in maps[1:]
        ]
        return torch.cat([maps[0], *others], dim=1)


class LinearHeadDecoder(nn.Module):
    """Maps of any sizes -> one map of all their channels, of the size of the finest, normalised.

    Args:
        features: What the maps are, finest first.
        config: The options.

    Attributes:
        join: Brings them together.
        norm: Normalises the joined maps.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: LinearHeadConfig) -> None:
        super().__init__()
        channels = sum(feature.channels for feature in features)
        self.join = Join()
        self.norm = norm_layer(config.norm, channels)
        self.out = FeatureSpec(channels, features[0].stride)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of ``features`` -> ``(N, out.channels, h, w)``."""
        out: Tensor = self.norm(self.join(maps))
        return out


@register_architecture("linear_head")
class LinearHead(SegmentationModel):
    """A linear head on any encoder: ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    Next to no decoder: for frozen backbones, and to measure an encoder by. All of the encoder's own
    maps of stride 4 and more are resized to the finest of them and concatenated; a batch
    normalisation and a 1x1 convolution give logits, which are resized to the image.

    >>> model = segzoo.LinearHead("test_vit", classes=3).freeze_encoder()
    >>> model(torch.rand(2, 3, 97, 64)).shape
    torch.Size([2, 3, 97, 64])
    >>> sum(item.requires_grad for item in model.parameters())
    4

    The paper takes the last block of a transformer (``depth=1``) or its last four
    (``encoder_options={"out_indices": [8, 9, 10, 11]}``), each behind the transformer's last
    normalisation; here blocks are taken as they are, evenly spread unless told otherwise.

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`LinearHeadConfig` for
            ``norm`` and ``dropout``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = LinearHeadConfig
    config: LinearHeadConfig
    align_corners = False

    @built_from(LinearHeadConfig)
    def __init__(self, config: LinearHeadConfig) -> None:
        super().__init__(config)
        self.decoder = LinearHeadDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, kernel=1, dropout=config.dropout
        )

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The encoder's own maps of stride 4 and more."""
        return Wants(own_maps=True, finest=_FINEST)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the size of the finest."""
        logits: Tensor = self.head(self.decoder(maps))
        return logits
