"""smp's MAnet."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from .architecture import (
    SmpArchitecture,
    interpolation,
    norm_of_tensors,
    tensor_of,
    tensors_of,
    told,
    told_depth,
    told_norm,
    unit_rules,
)


class _MAnet(SmpArchitecture):
    name = "MAnet"
    options = (
        *("decoder_use_norm", "decoder_channels", "decoder_pab_channels"),
        "decoder_interpolation",
    )
    untold = MappingProxyType({"decoder_interpolation": "nearest"})
    typical = "decoder.center.top_conv.weight"
    rules = (
        *unit_rules(r"(decoder\.blocks\.\d+\.conv[12])", r"\1"),
        *unit_rules(r"(decoder\.blocks\.\d+)\.hl_conv\.([01])", r"\1.project.\2"),
        (r"^(decoder\.blocks\.\d+)\.SE_hl\.", r"\1.gate."),
        (r"^(decoder\.blocks\.\d+)\.SE_ll\.", r"\1.skip_gate."),
        (r"^(decoder\.blocks\.\d+\.(?:skip_)?gate)\.1\.", r"\1.squeeze."),
        (r"^(decoder\.blocks\.\d+\.(?:skip_)?gate)\.3\.", r"\1.excite."),
        # smp multiplies (center^T top) with bottom.
        (r"^decoder\.center\.center_conv\.", "decoder.center.query."),
        (r"^decoder\.center\.top_conv\.", "decoder.center.key."),
        (r"^decoder\.center\.bottom_conv\.", "decoder.center.value."),
        (r"^decoder\.center\.out_conv\.", "decoder.center.out."),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        hidden = tensor_of(tensors, self.typical, self, where).shape[0]
        blocks = tensors_of(tensors, "decoder.blocks.{}.conv1.0.weight", self, where)
        widths = [weight.shape[0] for weight in blocks]
        told_depth(given, len(blocks), where)
        told(given, {"decoder_channels": widths, "decoder_pab_channels": hidden}, where)
        norm = norm_of_tensors(tensors, "decoder.blocks.0.conv1")
        told_norm(given, norm, where)
        return {
            "decoder_channels": tuple(widths),
            "attention_channels": hidden,
            "norm": norm,
            "interpolation": interpolation(given, self),
        }


CONVERTER = _MAnet()
