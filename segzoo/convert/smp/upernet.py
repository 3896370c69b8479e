"""smp's UPerNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import ConversionError
from .architecture import (
    SmpArchitecture,
    depth_of,
    natural_upsampling,
    norm_of_tensors,
    tensor_of,
    told,
    told_norm,
    unit_rules,
)


class _UPerNet(SmpArchitecture):
    name = "UPerNet"
    options = ("decoder_channels", "decoder_use_norm", "upsampling")
    typical = "decoder.fusion_block.0.weight"
    rules = (
        (r"^decoder\.feature_norms\.", "decoder.norms."),
        *unit_rules(r"decoder\.psp\.blocks\.(\d+)\.1", r"decoder.pooling.branches.\1"),
        *unit_rules(r"decoder\.psp\.out_conv", "decoder.top"),
        *unit_rules(
            r"decoder\.fpn_lateral_blocks\.(\d+)\.conv_norm_relu", r"decoder.laterals.\1.project"
        ),
        *unit_rules(r"decoder\.fpn_conv_blocks\.(\d+)", r"decoder.refine.\1"),
        *unit_rules(r"decoder\.fusion_block", "decoder.fuse"),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        channels = tensor_of(tensors, self.typical, self, where).shape[0]
        told(given, {"decoder_channels": channels}, where)
        norm = norm_of_tensors(tensors, "decoder.fusion_block")
        told_norm(given, norm, where)
        if norm != "batch":
            raise ConversionError(
                f"{where} has the norm {norm!r} (in segzoo's names) everywhere but behind its "
                "pyramid pooling, where smp's UPerNet always has batch normalisation; segzoo's has "
                "one norm. What can be brought over exactly is decoder_use_norm='batchnorm'."
            )
        depth_of(given, self.depth, 3, where)
        natural_upsampling(given, 4, 4, where)
        return {"decoder_channels": channels}


CONVERTER = _UPerNet()
