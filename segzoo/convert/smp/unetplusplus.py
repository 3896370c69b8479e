"""smp's UnetPlusPlus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...architectures.unetplusplus import UnetPlusPlus
from ..keymap import Rule
from .architecture import SmpArchitecture
from .unet_blocks import BLOCK_OPTIONS, BLOCK_UNTOLD, block_arguments, block_rules


class _UnetPlusPlus(SmpArchitecture):
    name = "UnetPlusPlus"
    options = BLOCK_OPTIONS
    untold = BLOCK_UNTOLD
    typical = "decoder.blocks.x_0_0.conv1.0.weight"
    rules = (
        *block_rules(r"decoder\.blocks\.x_\d+_\d+"),
        (r"^segmentation_head\.0\.", "head.conv."),
        # Out of the way: a name of smp's is the name of another node of ours.
        (r"^decoder\.blocks\.x_", "decoder.blocks.smp_"),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        return block_arguments("decoder.blocks.x_0_{}", self, tensors, given, where)

    def renames(self, model: nn.Module) -> tuple[Rule, ...]:
        """smp counts columns from the deepest and rows from where they start.

        Its ``x_d_l`` is the node of column ``l`` whose row began ``l - d`` columns before.
        """
        assert isinstance(model, UnetPlusPlus)
        decoder, rules = model.decoder, list(self.rules)
        for column, (stride, i) in enumerate(zip(decoder.strides, decoder.skips, strict=True)):
            for row in range(1 if i is None else column + 1):
                ours = f"up_{stride}" if i is None else f"x_{i}_{column + 1 - row}"
                rules.append(
                    (rf"^decoder\.blocks\.smp_{row}_{column}\.", f"decoder.blocks.{ours}.")
                )
        return tuple(rules)

    def is_unused(self, name: str, model: nn.Module) -> bool:
        # smp builds convolutions below a vgg, and attention before the last block, and uses
        # neither.
        return name.startswith(("decoder.center.", "decoder.blocks.up_1.attention1."))


CONVERTER = _UnetPlusPlus()
