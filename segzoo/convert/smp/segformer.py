"""smp's Segformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .architecture import SmpArchitecture, depth_of, natural_upsampling, tensor_of, told, unit_rules


class _Segformer(SmpArchitecture):
    name = "Segformer"
    options = ("decoder_segmentation_channels", "upsampling")
    typical = "decoder.mlp_stage.0.linear.weight"
    rules = (
        (r"^decoder\.mlp_stage\.(\d+)\.linear\.", r"decoder.projections.\1.linear."),
        *unit_rules(r"decoder\.fuse_stage", "decoder.fuse"),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        channels = tensor_of(tensors, self.typical, self, where).shape[0]
        told(given, {"decoder_segmentation_channels": channels}, where)
        depth_of(given, self.depth, 3, where)
        natural_upsampling(given, 4, 4, where)
        return {"decoder_channels": channels}


CONVERTER = _Segformer()
