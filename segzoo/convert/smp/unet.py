"""smp's Unet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...architectures.unet import Unet
from .architecture import SmpArchitecture, unit_rules
from .unet_blocks import BLOCK_OPTIONS, BLOCK_UNTOLD, block_arguments, block_rules


class _Unet(SmpArchitecture):
    name = "Unet"
    options = BLOCK_OPTIONS
    untold = BLOCK_UNTOLD
    typical = "decoder.blocks.0.conv1.0.weight"
    rules = (
        *unit_rules(r"(decoder\.center\.[01])", r"\1"),
        *block_rules(r"decoder\.blocks\.\d+"),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        # MAnet's blocks have these convolutions too, and others beside them (hl_conv, top_conv): by
        # any of those it is known, as a damaged one must not pass for a whole U-Net.
        others = any("_conv." in name for name in tensors if name.startswith("decoder."))
        return super().recognises(tensors) and not others

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        return {
            **block_arguments("decoder.blocks.{}", self, tensors, given, where),
            "center": "decoder.center.0.0.weight" in tensors,
            "rounding": "down",  # matters only where the encoder begins at stride 4, at odd sizes
        }

    def is_unused(self, name: str, model: nn.Module) -> bool:
        # smp builds attention before the last block, and does not use it.
        assert isinstance(model, Unet)
        return name.startswith(f"decoder.blocks.{len(model.decoder.blocks) - 1}.attention1.")


CONVERTER = _Unet()
