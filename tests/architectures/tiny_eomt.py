"""EoMTs of a few weights, on each kind of timm's plain transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import segzoo

from ..architecture_checks import randomise_all

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2}
#: One of each kind of timm's plain transformers: with a class token, registers, two tokens or none;
#: with places that are learned, rotary, learned and rotary, or relative, in each block or in all.
KINDS: dict[str, dict[str, Any]] = {
    "vit_small_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {},
    "deit_tiny_distilled_patch16_224": {},
    "vit_base_patch16_siglip_gap_224": {},
    "beit_base_patch16_224": {"image_size": (64, 48)},
    "eva02_tiny_patch14_224": {},
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_rope_mixed_224": {},
    "naflexvit_base_patch16_gap": {},
}


def tiny(name: str = "vit_small_patch16_224", **arguments: Any) -> segzoo.EoMT:
    torch.manual_seed(0)
    options = {**TINY, **arguments.pop("encoder_options", {})}
    given = {"classes": 3, "queries": 7, **KINDS.get(name, {}), **arguments}
    model = segzoo.EoMT(name, encoder_options=options, **given)
    randomise_all(model)
    for key, parameter in model.named_parameters():
        if "bias_table" in key:
            nn.init.normal_(parameter)
    return model.eval()
