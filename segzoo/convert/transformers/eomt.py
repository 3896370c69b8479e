"""transformers' EomtForUniversalSegmentation, and the same on DINOv3."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ... import checks
from ...errors import ConversionError
from ..keymap import Rule
from .plan import Plan, joined, needed, only, tensor_of

TYPICAL = "embeddings.position_embeddings.weight"
TYPICAL_DINOV3 = "embeddings.patch_embeddings.weight"
_MASKS, _POSITIONS = "attn_mask_probs", TYPICAL
#: One of them is there where the MLP is gated.
_GATES = ("layers.0.mlp.gate_proj.weight", "layers.0.mlp.weights_in.weight")
#: Channels, blocks, heads and whether the MLP is gated -> what timm calls the transformer.
_DINOV2: Mapping[tuple[int, int, int, bool], str] = {
    (384, 12, 6, False): "vit_small_patch14_reg4_dinov2",
    (768, 12, 12, False): "vit_base_patch14_reg4_dinov2",
    (1024, 24, 16, False): "vit_large_patch14_reg4_dinov2",
    (1536, 40, 24, True): "vit_giant_patch14_reg4_dinov2",
}
#: Those without a gate: there transformers has one activation in the gate and behind the queries,
#: where DINOv3 and EoMT have two.
_DINOV3: Mapping[tuple[int, int, int, bool], str] = {
    (192, 12, 3, False): "vit_tiny_patch16_dinov3_qkvb",
    (384, 12, 6, False): "vit_small_patch16_dinov3_qkvb",
    (768, 12, 12, False): "vit_base_patch16_dinov3_qkvb",
    (1024, 24, 16, False): "vit_large_patch16_dinov3_qkvb",
}


def _rules() -> Iterator[Rule]:
    yield r"^embeddings\.register_tokens$", "encoder.backbone.model.reg_token"
    yield r"^embeddings\.cls_token$", "encoder.backbone.model.cls_token"
    yield r"^embeddings\.position_embeddings\.weight$", "encoder.backbone.model.pos_embed"
    patches = "encoder.backbone.model.patch_embed.proj."
    yield r"^embeddings\.patch_embeddings\.(?:projection\.)?", patches
    yield r"^query\.weight$", "encoder.backbone.query"
    yield r"^layernorm\.", "encoder.backbone.model.norm."
    yield r"^layers\.(\d+)\.", r"encoder.backbone.model.blocks.\1."
    yield r"\.attention\.(?:o|out)_proj\.", ".attn.proj."
    yield r"\.attention\.qkv_proj\.", ".attn.qkv."
    yield r"^upscale_block\.block\.(\d+)\.conv1\.", r"decoder.upscale.\1.larger."
    yield r"^upscale_block\.block\.(\d+)\.conv2\.", r"decoder.upscale.\1.smooth."
    yield r"^upscale_block\.block\.(\d+)\.layernorm2d\.", r"decoder.upscale.\1.norm."
    for theirs, ours in ((1, 0), (2, 2), (3, 4)):
        yield rf"^mask_head\.fc{theirs}\.", f"decoder.mask.{ours}."
    yield r"^class_predictor\.", "decoder.classify."


def _rules_dinov2() -> Iterator[Rule]:
    yield from _rules()
    yield r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"
    # The second names are those of older versions, whose two halves are one layer already.
    yield r"\.mlp\.(?:gated_proj|weights_in)\.", ".mlp.fc1."
    yield r"\.mlp\.(?:down_proj|weights_out)\.", ".mlp.fc2."


def _rules_dinov3() -> Iterator[Rule]:
    yield from _rules()
    yield r"\.layer_scale(\d)\.lambda1$", r".gamma_\1"
    yield r"\.attention\.([qv])_proj\.bias$", r".attn.\1_bias"
    yield r"\.mlp\.up_proj\.", ".mlp.fc1."
    yield r"\.mlp\.down_proj\.", ".mlp.fc2."


def plan(tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> Plan:
    """What a checkpoint on DINOv2 becomes.

    Raises:
        ConversionError: Something that cannot be brought over.
    """
    only(config, where, hidden_act="gelu", mlp_ratio=4)
    stem = tensor_of(tensors, "embeddings.patch_embeddings.projection.weight", where)
    whole = joined(tensors, r"\.attention\.(PART)_proj\.", ("q", "k", "v"), "qkv")
    if _GATES[0] in tensors:
        whole = joined(whole, r"\.mlp\.(PART)_proj\.", ("gate", "up"), "gated")
    whole[_POSITIONS] = tensor_of(tensors, _POSITIONS, where)[None]
    options = {
        "img_size": _side(tensors, stem.shape[2], where),
        "reg_tokens": tensor_of(tensors, "embeddings.register_tokens", where).shape[1],
    }
    name = _encoder(_DINOV2, tensors, config, stem, where)
    return _planned(name, whole, tuple(_rules_dinov2()), config, stem, options, where)


def plan_dinov3(tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> Plan:
    """What a checkpoint on DINOv3 becomes.

    Raises:
        ConversionError: Something that cannot be brought over.
    """
    only(config, where, hidden_act="gelu", query_bias=True, key_bias=False, value_bias=True)
    only(config, where, proj_bias=True, mlp_bias=True, use_gated_mlp=False)
    only(config, where, rope_theta=100.0)  # where older versions say it
    rope = config.get("rope_parameters")
    if isinstance(rope, Mapping):
        only(rope, f"{where} (rope_parameters)", rope_type="default", rope_theta=100.0)
    stem = tensor_of(tensors, TYPICAL_DINOV3, where)
    whole = joined(tensors, r"\.attention\.(PART)_proj\.weight$", ("q", "k", "v"), "qkv")
    registers = tensor_of(tensors, "embeddings.register_tokens", where).shape[1]
    name = _encoder(_DINOV3, tensors, config, stem, where)
    rules = tuple(_rules_dinov3())
    return _planned(name, whole, rules, config, stem, {"num_reg_tokens": registers}, where)


def _planned(
    encoder: str,
    tensors: Mapping[str, Tensor],
    rules: tuple[Rule, ...],
    config: Mapping[str, Any],
    stem: Tensor,
    options: Mapping[str, Any],
    where: str,
) -> Plan:
    """The plan, from what both kinds have."""
    doublings = sum(name.endswith(".conv1.weight") for name in tensors)
    rates = {
        "attn_drop_rate": config.get("attention_dropout"),
        "drop_path_rate": config.get("drop_path_rate"),
        "pos_drop_rate": config.get("hidden_dropout_prob"),
    }
    return Plan(
        architecture="eomt",
        encoder=encoder,
        arguments={
            "queries": tensor_of(tensors, "query.weight", where).shape[0],
            "blocks": needed(config, "num_blocks", where),
            "upscale_layers": doublings,
            "classes": tensor_of(tensors, "class_predictor.weight", where).shape[0] - 1,
            "in_channels": stem.shape[1],
            "encoder_options": {
                **options,
                "patch_size": stem.shape[2],
                "norm_eps": config.get("layer_norm_eps", 1e-6),
                **{name: rate for name, rate in rates.items() if rate},
            },
        },
        tensors={key: item for key, item in tensors.items() if item.numel()},
        rules=rules,
        # Of use in training only, or never.
        unused=rf"^{_MASKS}$|^criterion\.|^embeddings\.(?:mask_token|position_ids)$",
        notes=tuple(_notes(tensors, config, options, stem.shape[2])),
    )


def _notes(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    patch: int,
) -> Iterator[str]:
    """What the model does otherwise here, or may do otherwise than its owner thinks."""
    chances = tensors.get(_MASKS)
    if chances is not None and not chances.is_meta and bool((chances > 0).any()):
        values = [round(value, 4) for value in chances.tolist()]
        yield (
            "attends within masks in prediction too, as before the end of its training "
            f"(attn_mask_probs {values}). The model here does so only where it is asked to: "
            f"model.forward_queries(image, attention_mask_probability={values})."
        )
    side = options.get("img_size")
    said = config.get("image_size", side)
    if side is not None and said != side:
        yield (
            f"has positions for {side // patch}x{side // patch} patches, but its config says "
            f"image_size={checks.shown(said)}: they are interpolated for images of other sizes "
            f"than {side}x{side}."
        )


def _side(tensors: Mapping[str, Tensor], patch: int, where: str) -> int:
    """The side of the images that the positions are for."""
    places = tensor_of(tensors, _POSITIONS, where).shape[0]
    side = math.isqrt(places)
    if side * side != places:
        raise ConversionError(f"{where} has {places} positions, which are no square.")
    return side * patch


def _encoder(
    known: Mapping[tuple[int, int, int, bool], str],
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    stem: Tensor,
    where: str,
) -> str:
    """timm's name of the transformer."""
    channels, patch = stem.shape[0], tuple(stem.shape[2:])
    depth = sum(name.endswith(".norm1.weight") for name in tensors)
    gated = any(gate in tensors for gate in _GATES)
    heads = config.get("num_attention_heads", max(channels // 64, 1))
    name = known.get((channels, depth, heads, gated))
    if name is None or patch[0] != patch[1]:
        sizes = ", ".join(f"{c} channels, {d} blocks, {h} heads" for c, d, h, _ in known)
        raise ConversionError(
            f"{where} has a transformer of {channels} channels, {depth} blocks and {heads} heads "
            f"with patches of {patch[0]}x{patch[1]}; what can be brought over: {sizes}."
        )
    return name
