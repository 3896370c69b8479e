"""smp's DeepLabV3Plus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...architectures.deeplabv3plus import DeepLabV3Plus
from ..keymap import Rule
from .architecture import SmpArchitecture, natural_upsampling, tensor_of, unit_rules
from .aspp import OPTIONS, aspp_arguments, aspp_rules, separable_rules, untold_by_tensors


class _DeepLabV3Plus(SmpArchitecture):
    name = "DeepLabV3Plus"
    options = OPTIONS
    untold = untold_by_tensors(16)
    typical = "decoder.aspp.0.convs.0.0.weight"
    rules = (
        *separable_rules(r"decoder\.aspp\.1", r"decoder\.aspp\.2", "decoder.refine"),
        *unit_rules(r"decoder\.block1", "decoder.skip"),
        *separable_rules(r"decoder\.block2\.0", r"decoder\.block2\.1", "decoder.fuse"),
        (r"^segmentation_head\.0\.", "head.conv."),
    )

    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        skip = tensor_of(tensors, "decoder.block1.0.weight", self, where)
        natural_upsampling(given, 4, 4, where)
        return {
            **aspp_arguments(tensors, given, self, "decoder.aspp.0", where),
            "skip_channels": skip.shape[0],
        }

    def renames(self, model: nn.Module) -> tuple[Rule, ...]:
        assert isinstance(model, DeepLabV3Plus)
        return (*self.rules, *aspp_rules(r"decoder\.aspp\.0", model.decoder.aspp))


CONVERTER = _DeepLabV3Plus()
