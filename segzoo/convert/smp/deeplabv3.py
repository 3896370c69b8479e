"""smp's DeepLabV3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...architectures.deeplabv3 import DeepLabV3
from ..keymap import Rule
from .architecture import SmpArchitecture, natural_upsampling
from .aspp import OPTIONS, aspp_arguments, aspp_rules, untold_by_tensors

#: The decoder was a sequence once.
_OLD = "decoder.0.convs.0.0.weight"


class _DeepLabV3(SmpArchitecture):
    name = "DeepLabV3"
    options = OPTIONS
    untold = untold_by_tensors(8)
    typical = "decoder.aspp.convs.0.0.weight"
    rules = (
        (r"^decoder\.0\.", "decoder.aspp."),
        (r"^decoder\.(?:1|conv)\.", "decoder.conv.conv."),
        (r"^decoder\.(?:2|bn)\.", "decoder.conv.norm."),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        return super().recognises(tensors) or _OLD in tensors

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        aspp = "decoder.0" if _OLD in tensors else "decoder.aspp"
        arguments = aspp_arguments(tensors, given, self, aspp, where)
        natural = min(2 ** given["encoder_depth"], arguments["output_stride"])
        natural_upsampling(given, natural, natural, where)
        return arguments

    def renames(self, model: nn.Module) -> tuple[Rule, ...]:
        assert isinstance(model, DeepLabV3)
        return (*self.rules, *aspp_rules(r"decoder\.aspp", model.decoder.aspp))


CONVERTER = _DeepLabV3()
