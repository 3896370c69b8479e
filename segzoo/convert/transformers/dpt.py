"""transformers' DPTForSemanticSegmentation, on a plain vision transformer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ...architectures.dpt import READOUTS, doublings
from ...errors import ConversionError
from ..keymap import Rule
from .plan import Plan, joined, needed, only, tensor_of

TYPICAL = "neck.fusion_stage.layers.0.projection.weight"
#: Channels of the transformer -> what timm calls it.
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}


def _rules(levels: int) -> Iterator[Rule]:
    inside = "encoder.backbone.model"
    yield r"^dpt\.embeddings\.cls_token$", f"{inside}.cls_token"
    yield r"^dpt\.embeddings\.position_embeddings$", f"{inside}.pos_embed"
    yield r"^dpt\.embeddings\.patch_embeddings\.projection\.", f"{inside}.patch_embed.proj."
    yield r"^dpt\.encoder\.layer\.", f"{inside}.blocks."
    yield r"(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."
    yield r"(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."
    yield r"(blocks\.\d+)\.attention\.attention\.", r"\1.attn."
    yield r"(blocks\.\d+)\.attention\.output\.dense\.", r"\1.attn.proj."
    yield r"(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."
    yield r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."
    stage = r"^neck\.reassemble_stage"
    yield rf"{stage}\.readout_projects\.(\d+)\.0\.", r"decoder.readouts.\1.linear."
    yield rf"{stage}\.layers\.(\d+)\.projection\.", r"decoder.levels.\1.project."
    yield rf"{stage}\.layers\.(\d+)\.resize\.", r"decoder.levels.\1.resample."
    yield r"^neck\.convs\.(\d+)\.", r"decoder.levels.\1.widen."
    fusion = r"^neck\.fusion_stage\.layers\.(\d+)"
    yield rf"{fusion}\.projection\.", r"decoder.fusions.\1.project."
    for theirs, ours in (("residual_layer1", "level"), ("residual_layer2", "joined")):
        yield rf"{fusion}\.{theirs}\.convolution(\d)\.", rf"decoder.fusions.\1.{ours}.conv\2."
        yield rf"{fusion}\.{theirs}\.batch_norm(\d)\.", rf"decoder.fusions.\1.{ours}.norm\2."
    yield r"^head\.head\.0\.", "head.unit.conv."
    yield r"^head\.head\.1\.", "head.unit.norm."
    yield r"^head\.head\.4\.", "head.conv."


def plan(tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> Plan:
    """What a checkpoint becomes.

    Raises:
        ConversionError: Something that cannot be brought over.
    """
    if config.get("is_hybrid") or config.get("backbone_config"):
        raise ConversionError(
            f"{where} has a backbone beside the transformer of its own; what can be brought over "
            "is DPT on a plain vision transformer (is_hybrid false, no backbone_config)."
        )
    blocks = tuple(needed(config, "backbone_out_indices", where))
    only(
        config,
        where,
        neck_ignore_stages=[],
        head_in_index=-1,
        hidden_act="gelu",
        use_batch_norm_in_fusion_residual=True,
        use_bias_in_fusion_residual=None,
        qkv_bias=True,
    )
    classes = tensor_of(tensors, "head.head.4.weight", where).shape[0]
    stem = tensor_of(tensors, "dpt.embeddings.patch_embeddings.projection.weight", where)
    channels, bands, patch = stem.shape[0], stem.shape[1], stem.shape[2]
    levels = range(len(blocks))
    widths = [
        tensor_of(tensors, f"neck.reassemble_stage.layers.{i}.projection.weight", where).shape[0]
        for i in levels
    ]
    only(config, where, reassemble_factors=[2.0 ** doublings(patch, i) for i in levels])
    readout = config.get("readout_type", "project")
    if readout not in READOUTS:
        raise ConversionError(f"{where}: readout_type={readout!r} is not known here.")
    return Plan(
        architecture="dpt",
        encoder=_encoder(tensors, config, channels, patch, where),
        arguments={
            "readout": readout,
            "reassemble_channels": tuple(widths),
            "decoder_channels": tensor_of(tensors, TYPICAL, where).shape[0],
            "dropout": config.get("semantic_classifier_dropout", 0.1),
            "refine_deepest": False,
            "encoder_options": {
                "out_indices": blocks,
                "img_size": _side(tensors, patch, where),
                "norm_eps": config.get("layer_norm_eps", 1e-12),
            },
            "classes": classes,
            "in_channels": bands,
        },
        tensors=joined(
            tensors, r"\.attention\.attention\.(PART)\.", ("query", "key", "value"), "qkv"
        ),
        rules=tuple(_rules(len(blocks))),
        # transformers never runs the deepest fusion's first unit, nor needs blocks behind the last
        # that is taken; the other head serves its loss.
        unused=rf"^dpt\.encoder\.layer\.(?:{_behind(max(blocks))})\.|"
        r"^auxiliary_head\.|^dpt\.(?:layernorm|pooler)\.|"
        r"^neck\.fusion_stage\.layers\.0\.residual_layer1\.",
        mean_std=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    )


def _behind(last: int) -> str:
    """The numbers of the blocks behind one of them, for a regular expression."""
    return "|".join(map(str, range(last + 1, last + 64)))


def _side(tensors: Mapping[str, Tensor], patch: int, where: str) -> int:
    """The side of the images that the positions are for."""
    places = tensor_of(tensors, "dpt.embeddings.position_embeddings", where).shape[1] - 1
    side = math.isqrt(places)
    if side * side != places:
        raise ConversionError(f"{where} has {places} positions, which are no square.")
    return side * patch


def _encoder(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], channels: int, patch: int, where: str
) -> str:
    """timm's name of the transformer."""
    found = (re.match(r"dpt\.encoder\.layer\.(\d+)\.", name) for name in tensors)
    depth = len({match[1] for match in found if match})
    size = _SIZES.get(channels)
    heads, blocks = channels // 64, 24 if size == "large" else 12
    same = (
        depth == blocks
        and config.get("num_attention_heads", heads) == heads
        and config.get("intermediate_size", 4 * channels) == 4 * channels
    )
    if size is None or not same or patch not in (8, 16, 32):
        raise ConversionError(
            f"{where} has a transformer of {channels} channels and {depth} blocks with patches of "
            f"{patch}; what can be brought over has the sizes of timm's vit_tiny, vit_small, "
            "vit_base and vit_large."
        )
    return f"vit_{size}_patch{patch}_224"
