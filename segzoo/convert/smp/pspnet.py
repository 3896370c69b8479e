"""smp's PSPNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .architecture import (
    SmpArchitecture,
    depth_of,
    dropout_of,
    natural_upsampling,
    norm_of_tensors,
    tensor_of,
    told,
    told_norm,
    unit_rules,
)


class _PSPNet(SmpArchitecture):
    name = "PSPNet"
    options = ("psp_out_channels", "psp_dropout", "decoder_use_norm", "upsampling")
    depth = 3
    typical = "decoder.psp.blocks.0.pool.1.0.weight"
    rules = (
        *unit_rules(r"decoder\.psp\.blocks\.(\d+)\.pool\.1", r"decoder.pooling.branches.\1"),
        *unit_rules(r"decoder\.conv", "decoder.fuse"),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        channels = tensor_of(tensors, "decoder.conv.0.weight", self, where).shape[0]
        told(given, {"psp_out_channels": channels}, where)
        norm = norm_of_tensors(tensors, "decoder.conv")
        if "psp_use_batchnorm" in given:  # what older versions call it
            given.setdefault("decoder_use_norm", given.pop("psp_use_batchnorm"))
        told_norm(given, norm, where)
        stride = 2 ** depth_of(given, self.depth, 1, where)
        natural_upsampling(given, 8, stride, where)
        return {
            "decoder_channels": channels,
            "norm": norm,
            "dropout": dropout_of(given, "psp_dropout", 0.2, where),
            "max_stride": stride,
        }


CONVERTER = _PSPNet()
