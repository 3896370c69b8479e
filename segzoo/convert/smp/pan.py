"""smp's PAN."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..keymap import Rule
from .architecture import (
    SmpArchitecture,
    depth_of,
    interpolation,
    natural_upsampling,
    output_stride_of,
    tensor_of,
    told,
    told_depth,
)


def _unit(pattern: str, name: str) -> tuple[Rule, ...]:
    return (rf"^{pattern}\.conv\.", f"{name}.conv."), (rf"^{pattern}\.bn\.", f"{name}.norm.")


_ATTENTION, _OURS = r"decoder\.fpa", "decoder.attention"


class _PAN(SmpArchitecture):
    name = "PAN"
    options = (
        *("encoder_output_stride", "decoder_channels", "decoder_interpolation", "upsampling"),
    )
    untold = MappingProxyType({"encoder_output_stride": 16, "decoder_interpolation": "bilinear"})
    typical = "decoder.fpa.branch1.1.conv.weight"
    rules = (
        *_unit(rf"{_ATTENTION}\.branch1\.1", f"{_OURS}.pooled"),
        *_unit(rf"{_ATTENTION}\.mid\.0", f"{_OURS}.middle"),
        *_unit(rf"{_ATTENTION}\.down1\.1", f"{_OURS}.down1"),
        *_unit(rf"{_ATTENTION}\.down2\.1", f"{_OURS}.down2"),
        *_unit(rf"{_ATTENTION}\.down3\.1", f"{_OURS}.down3.0"),
        *_unit(rf"{_ATTENTION}\.down3\.2", f"{_OURS}.down3.1"),
        *_unit(rf"{_ATTENTION}\.conv2", f"{_OURS}.up2"),
        *_unit(rf"{_ATTENTION}\.conv1", f"{_OURS}.up1"),
        # smp counts from one.
        *((rf"^decoder\.gau{i}\.", f"decoder.upsamples.{i - 1}.") for i in (1, 2, 3)),
        (r"^(decoder\.upsamples\.\d)\.conv1\.1\.conv\.", r"\1.gate."),
        (r"^(decoder\.upsamples\.\d)\.conv1\.1\.bn\.", r"\1.gate_norm."),
        (r"^(decoder\.upsamples\.\d)\.conv2\.conv\.", r"\1.conv.conv."),
        (r"^(decoder\.upsamples\.\d)\.conv2\.bn\.", r"\1.conv.norm."),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        unit = tensor_of(tensors, self.typical, self, where)
        maps = {name.split(".")[1] for name in tensors if name.startswith("decoder.gau")}
        told(given, {"decoder_channels": unit.shape[0]}, where)
        told_depth(given, len(maps) + 2, where)
        depth_of(given, self.depth, 3, where)
        natural_upsampling(given, 4, 4, where)
        return {
            "output_stride": output_stride_of(given, self, (16, 32), where),
            "decoder_channels": unit.shape[0],
            "interpolation": interpolation(given, self),
        }


CONVERTER = _PAN()
