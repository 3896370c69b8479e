"""smp's MAnet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ... import checks
from ...errors import ConversionError
from .architecture import SmpArchitecture, interpolation, norm_of_tensors, told, told_norm


class _MAnet(SmpArchitecture):
    name = "MAnet"
    options = (
        *("decoder_use_norm", "decoder_channels", "decoder_pab_channels"),
        "decoder_interpolation",
    )
    typical = "decoder.center.top_conv.weight"
    rules = (
        (r"^(decoder\.blocks\.\d+\.conv[12])\.0\.", r"\1.conv."),
        (r"^(decoder\.blocks\.\d+\.conv[12])\.1\.", r"\1.norm."),
        (r"^(decoder\.blocks\.\d+)\.hl_conv\.([01])\.0\.", r"\1.project.\2.conv."),
        (r"^(decoder\.blocks\.\d+)\.hl_conv\.([01])\.1\.", r"\1.project.\2.norm."),
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
        pattern = re.compile(r"decoder\.blocks\.(\d+)\.conv1\.0\.weight")
        blocks = sorted(int(found[1]) for found in map(pattern.fullmatch, tensors) if found)
        if not blocks or blocks != list(range(len(blocks))) or self.typical not in tensors:
            raise ConversionError(
                f"{where} is no MAnet of segmentation_models_pytorch: it has not the tensors "
                f"{self.typical}, decoder.blocks.0.conv1.0.weight ... It has: "
                f"{checks.shown(sorted(tensors))}."
            )
        widths = [tensors[f"decoder.blocks.{i}.conv1.0.weight"].shape[0] for i in blocks]
        hidden = tensors[self.typical].shape[0]
        found = {
            "encoder_depth": len(blocks),
            "decoder_channels": widths,
            "decoder_pab_channels": hidden,
        }
        told(given, found, where)
        norm = norm_of_tensors(tensors, "decoder.blocks.0.conv1")
        told_norm(given, norm, where)
        given["encoder_depth"] = len(blocks)
        return {
            "decoder_channels": tuple(widths),
            "attention_channels": hidden,
            "norm": norm,
            "interpolation": interpolation(given, "nearest"),
        }


CONVERTER = _MAnet()
