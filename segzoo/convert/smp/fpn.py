"""smp's FPN."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from .architecture import (
    SmpArchitecture,
    depth_of,
    dropout_of,
    interpolation,
    natural_upsampling,
    tensor_of,
    told,
    unit_rules,
)


class _FPN(SmpArchitecture):
    name = "FPN"
    options = (
        *("decoder_pyramid_channels", "decoder_segmentation_channels", "decoder_merge_policy"),
        *("decoder_dropout", "decoder_interpolation", "upsampling"),
    )
    untold = MappingProxyType({"decoder_interpolation": "nearest"})
    typical = "decoder.p5.weight"
    rules = (
        (r"^decoder\.p5\.", "decoder.laterals.0.project."),
        (r"^decoder\.p4\.skip_conv\.", "decoder.laterals.1.project."),
        (r"^decoder\.p3\.skip_conv\.", "decoder.laterals.2.project."),
        (r"^decoder\.p2\.skip_conv\.", "decoder.laterals.3.project."),
        *unit_rules(
            r"decoder\.seg_blocks\.(\d+)\.block\.(\d+)\.block", r"decoder.branches.\1.convs.\2"
        ),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        top = tensor_of(tensors, self.typical, self, where)
        conv = tensor_of(tensors, "decoder.seg_blocks.0.block.0.block.0.weight", self, where)
        head = tensor_of(tensors, "segmentation_head.0.weight", self, where)
        merge = "add" if head.shape[1] == conv.shape[0] else "cat"
        found = {
            "decoder_pyramid_channels": top.shape[0],
            "decoder_segmentation_channels": conv.shape[0],
            "decoder_merge_policy": merge,
        }
        told(given, found, where)
        # At depth 3 smp's fourth map is the image itself, which no pyramid here has.
        depth = depth_of(given, self.depth, 4, where)
        natural_upsampling(given, 4, 2 ** (depth - 3), where)
        return {
            "pyramid_channels": top.shape[0],
            "decoder_channels": conv.shape[0],
            "merge": merge,
            "dropout": dropout_of(given, "decoder_dropout", 0.2, where),
            "interpolation": interpolation(given, self),
        }


CONVERTER = _FPN()
