"""What timm's feature extractors leave out: a transformer's class and register tokens.

A readout of them is part of Ranftl et al., "Vision Transformers for Dense Prediction", 2021,
section 3.1. timm's models give them beside each map when they are asked to; its wrapper does not
ask.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn


class WithTokens(nn.Module):
    """timm's wrapper of a transformer, which gives the prefix tokens after the maps.

    Its parts have the names that they have in timm's wrapper, so weights have theirs.

    Args:
        getter: What ``timm.create_model(..., features_only=True)`` gives for a transformer.
    """

    def __init__(self, getter: Any) -> None:
        super().__init__()
        self.model: Any = getter.model
        self.feature_info = getter.feature_info
        self.output_fmt = getter.output_fmt
        self.out_indices, self.norm = getter.out_indices, getter.norm
        self.train(getter.training)

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(N, C, H, W)`` -> maps ``(N, C_i, h, w)``, then tokens ``(N, P, C_i)`` for each."""
        pairs = self.model.forward_intermediates(
            image,
            indices=self.out_indices,
            norm=self.norm,
            output_fmt="NCHW",
            intermediates_only=True,
            return_prefix_tokens=True,
        )
        return [item for item, _ in pairs] + [tokens for _, tokens in pairs]


def tokens_of(backbone: nn.Module) -> int:
    """How many prefix tokens a backbone could give beside each map; 0 where it cannot."""
    model: Any = getattr(backbone, "model", None)
    give = getattr(model, "forward_intermediates", None)
    if give is None or "return_prefix_tokens" not in inspect.signature(give).parameters:
        return 0
    return int(getattr(model, "num_prefix_tokens", 0))
