"""What smp's Unet and UnetPlusPlus share: the blocks that their decoders are made of."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..keymap import Rule
from .architecture import (
    SmpArchitecture,
    interpolation,
    norm_of_tensors,
    tensors_of,
    told,
    told_depth,
    told_norm,
    unit_rules,
)

#: smp's names of the arguments that these architectures have.
BLOCK_OPTIONS = (
    *("decoder_use_norm", "decoder_channels", "decoder_attention_type"),
    "decoder_interpolation",
)
#: What tensors do not tell of them, with smp's default.
BLOCK_UNTOLD: Mapping[str, Any] = MappingProxyType({"decoder_interpolation": "nearest"})


def block_rules(block: str) -> tuple[Rule, ...]:
    """Rules for a block: two units, with attention before and behind them.

    Args:
        block: smp's name of a block, which is ours too; a regular expression.
    """
    attention = rf"^({block}\.attention[12])\.attention"
    return (
        *unit_rules(rf"({block}\.conv[12])", r"\1"),
        (rf"{attention}\.cSE\.1\.", r"\1.squeeze."),
        (rf"{attention}\.cSE\.3\.", r"\1.excite."),
        (rf"{attention}\.sSE\.0\.", r"\1.spatial."),
    )


def block_arguments(
    block: str,
    converter: SmpArchitecture,
    tensors: Mapping[str, Tensor],
    given: dict[str, Any],
    where: str,
) -> dict[str, Any]:
    """Arguments of ours that blocks tell; the rest is as in :meth:`SmpArchitecture.arguments`.

    Args:
        block: smp's name of the blocks, one for each width, with ``{}`` for their number.

    Raises:
        ConversionError: A block is missing, or the config says something else.
    """
    first = block.format(0)
    weights = tensors_of(tensors, f"{block}.conv1.0.weight", converter, where)
    widths = [weight.shape[0] for weight in weights]
    attends = f"{first}.attention2.attention.cSE.1.weight" in tensors
    attention = "scse" if attends else "none"
    told_depth(given, len(widths), where)
    told(given, {"decoder_channels": widths, "decoder_attention_type": attention}, where)
    norm = norm_of_tensors(tensors, f"{first}.conv1")
    told_norm(given, norm, where)
    return {
        "decoder_channels": tuple(widths),
        "norm": norm,
        "attention": attention,
        "interpolation": interpolation(given, converter),
    }
