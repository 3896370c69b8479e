"""EoMT: queries in the last blocks of a plain vision transformer, and next to no decoder.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, section 3 and
figure 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from .. import checks
from ..config import ModelConfig, built_from
from ..encoders.query_blocks import QueryTokens, States
from ..errors import ArgumentError, warn
from ..prediction.inputs import check_batch, warn_if_resized
from ..registry import register_architecture
from .base import SegmentationModel
from .explain import explained
from .pixel_scores import PixelScores
from .query_heads import MaskDecoder, Queries, allowed_cells, of_image
from .wants import Wants

MAX_QUERIES = 4096
_MOST_BLOCKS = 1024
#: The masks' stride where nothing is said, or twice that where patches are not powers of two.
_FINEST = 4


@dataclass(frozen=True, kw_only=True)
class EoMTConfig(ModelConfig):
    """Arguments of :class:`EoMT`, on top of what all architectures share.

    Args:
        encoder: The name of one of timm's plain transformers, with a tag of its weights if you
            like; see :class:`~segzoo.config.ModelConfig`.
        queries: How many there are: each gives a mask and its class. At least one for each class;
            the paper has 100 for semantic segmentation and 200 for panoptic and instances.
        blocks: How many of the transformer's last blocks they join, up to all of them; None for two
            and one more for each dozen: the 3, 4 and 5 of the paper's code for 12, 24 and 40.
        upscale_layers: How often the map is doubled before masks are read from it; None for as
            often as brings it near stride 4, at least once.
    """

    encoder: str | nn.Module = field(default="vit_small_patch14_dinov2", kw_only=False)
    queries: int = 100
    blocks: int | None = None
    upscale_layers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("queries", self.queries, minimum=1, maximum=MAX_QUERIES)
        if self.blocks is not None:
            checks.integer("blocks", self.blocks, minimum=1, maximum=_MOST_BLOCKS)
        if self.upscale_layers is not None:
            checks.integer("upscale_layers", self.upscale_layers, minimum=0, maximum=6)


@register_architecture("eomt")
class EoMT(SegmentationModel):
    """EoMT on a plain transformer: image ``(N, in_channels, H, W)`` -> ``(N, classes, H, W)``.

    Learned queries pass the transformer's last blocks together with the image. Each gives a mask
    and its class (:meth:`forward_queries`); ``forward`` makes scores of the pixels of them, so
    whatever takes a model takes this one too. With several classes the outputs are logarithms of
    scores (softmax makes them sum to one); with one class the logit of the probability that at
    least one query claims the pixel.

    >>> model = segzoo.EoMT("vit_tiny_patch16_224", classes=3, queries=10)
    >>> model(torch.rand(2, 3, 97, 64)).shape
    torch.Size([2, 3, 97, 64])

    Args:
        encoder: The name of one of timm's plain transformers; see
            :class:`~segzoo.config.ModelConfig` for this and all other arguments that architectures
            share (of which ``depth`` and ``output_stride`` have no meaning here), and
            :class:`EoMTConfig` for ``queries``, ``blocks`` and ``upscale_layers``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder, or it is no plain transformer.
    """

    config_class = EoMTConfig
    config: EoMTConfig

    @built_from(EoMTConfig)
    def __init__(self, config: EoMTConfig) -> None:
        super().__init__(config)
        if config.queries < config.classes:
            warn(
                f"{config.queries} queries for {config.classes} classes: each query gives one mask "
                "of one class, so not all classes of a picture can be found. Give queries="
                f"{max(100, config.classes)} or more."
            )
        last = self.features[-1]
        layers = config.upscale_layers
        if layers is None:
            layers = max(1, int(math.log2(max(last.stride, 1) / _FINEST)))
        self.decoder = MaskDecoder(last.channels, config.classes, layers=layers)
        self.scores = PixelScores(config.classes)
        blocks: int = self.backbone.blocks
        self.config = replace(self.config, blocks=blocks, upscale_layers=layers)

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The maps in front of the query blocks and behind them, and the queries."""
        assert isinstance(config, EoMTConfig)
        return Wants(own_maps=True, queries=QueryTokens(config.queries, config.blocks))

    @property
    def backbone(self) -> Any:
        """The transformer and its queries: a ``WithQueries`` of ``encoders/query_blocks.py``."""
        return self.encoder.backbone

    @property
    def query_blocks(self) -> int:
        """How many blocks the queries pass."""
        blocks: int = self.backbone.blocks
        return blocks

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """The last map and the queries -> scores of the image's size."""
        states = States(maps[-2], maps[-1])
        mask_logits, class_logits = self.decoder(*states)
        covered, size = self._covered(states.map), (image.shape[-2], image.shape[-1])
        logits: Tensor = self.scores(mask_logits, class_logits, covered, size)
        return logits

    def forward_queries(
        self,
        image: Tensor,
        *,
        attention_mask_probability: float | Sequence[float] = 0.0,
    ) -> Queries:
        """Masks and classes of the queries, for panoptic and instance use and for training.

        >>> model = segzoo.EoMT("vit_tiny_patch16_224", classes=3, queries=10).eval()
        >>> found = model.forward_queries(torch.rand(2, 3, 64, 64))
        >>> found.mask_logits.shape, found.class_logits.shape
        (torch.Size([2, 10, 16, 16]), torch.Size([2, 10, 4]))

        In training each query may attend, with that probability, only to the cells where its mask
        was positive in front of the block ("mask annealing" lowers it to zero, section 3 of the
        paper). The intermediate predictions are given in training mode, and where masks are used.

        Args:
            image: As for :meth:`forward`.
            attention_mask_probability: One number in 0..1 for all query blocks, or one for each, in
                their order.

        Returns:
            Masks that cover the image, classes, and what was predicted in front of each query
            block.

        Raises:
            InputError: As :meth:`forward`.
            ArgumentError: A probability out of its range, or not one for each block.
            EncoderError: The transformer's blocks take no attention mask.
        """
        check_batch(image, self.in_channels)
        warn_if_resized(image, self.encoder)
        chances = self._chances(attention_mask_probability)
        fitted = self.encoder.size_rule.fit(image)
        layers: list[tuple[Tensor, Tensor]] = []

        def look(i: int, states: States) -> Tensor | None:
            if not self.training and chances[i] == 0:
                return None
            found: tuple[Tensor, Tensor] = self.decoder(*states)
            layers.append(found)
            size = (states.map.shape[-2], states.map.shape[-1])
            return allowed_cells(found[0], size, chances[i])

        with explained(self, image, fitted):
            _, last, queries = self.backbone.run(fitted, look)
            found: tuple[Tensor, Tensor] = self.decoder(last, queries)
        shown = self._shown(image, fitted)
        covered = self._covered(last)
        *before, (masks, classes) = [
            (of_image(masks, covered, shown), classes) for masks, classes in (*layers, found)
        ]
        return Queries(masks, classes, tuple(before))

    def _chances(self, given: float | Sequence[float]) -> tuple[float, ...]:
        name, count = "attention_mask_probability", self.backbone.blocks
        plain = _plain(given)
        several = isinstance(plain, Sequence) and not isinstance(plain, str)
        values = plain if several else [plain] * count
        if len(values) != count:
            raise ArgumentError(
                f"{name} must be one number, or {count}, one for each query block; got "
                f"{len(values)}."
            )
        return tuple(checks.number(name, _plain(item), minimum=0, maximum=1) for item in values)

    def _covered(self, cells: Tensor) -> tuple[int, int]:
        """The pixels that a map covers: a transformer pads what its patches do not divide."""
        stride = self.features[-1].stride
        return cells.shape[-2] * stride, cells.shape[-1] * stride

    def _shown(self, image: Tensor, fitted: Tensor) -> tuple[int, int]:
        """The pixels of the fitted image that show the image."""
        rule, size = self.encoder.size_rule, (image.shape[-2], image.shape[-1])
        resized = rule.fixed is not None and not rule.pads(image)
        return (fitted.shape[-2], fitted.shape[-1]) if resized else size


def _plain(value: Any) -> Any:
    """Of a tensor or an array its numbers; else what was given."""
    return value.tolist() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value
