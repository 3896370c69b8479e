"""smp's Linknet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .architecture import (
    SmpArchitecture,
    norm_of_tensors,
    tensors_of,
    told_depth,
    told_norm,
    unit_rules,
)


class _Linknet(SmpArchitecture):
    name = "Linknet"
    options = ("decoder_use_norm",)
    typical = "decoder.blocks.0.block.1.0.weight"
    rules = (
        (r"^(decoder\.blocks\.\d+)\.block\.0\.", r"\1.narrow."),
        (r"^(decoder\.blocks\.\d+)\.block\.1\.", r"\1.up."),
        (r"^(decoder\.blocks\.\d+)\.block\.2\.", r"\1.widen."),
        *unit_rules(r"(decoder\.blocks\.\d+\.\w+)", r"\1"),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        blocks = tensors_of(tensors, "decoder.blocks.{}.block.1.0.weight", self, where)
        told_depth(given, len(blocks), where)
        norm = norm_of_tensors(tensors, "decoder.blocks.0.block.0")
        told_norm(given, norm, where)
        return {"norm": norm}


CONVERTER = _Linknet()
