"""transformers' UperNetForSemanticSegmentation, on ConvNeXt and Swin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ...encoders import timm_meta
from ...errors import ConversionError
from ..keymap import Rule, rename
from .plan import Plan, joined, needed, only, tensor_of

TYPICAL = "decode_head.fpn_bottleneck.conv.weight"
#: timm's networks of each kind; which one it is, their tensors tell.
_CONVNEXTS = ("tiny", "small", "base", "large", "xlarge")
_SWINS = (
    *("tiny_patch4_window7_224", "small_patch4_window7_224", "base_patch4_window7_224"),
    *("base_patch4_window12_384", "large_patch4_window7_224", "large_patch4_window12_384"),
)


def _unit(theirs: str, ours: str) -> Iterator[Rule]:
    yield rf"^decode_head\.{theirs}\.conv\.", f"{ours}.conv."
    yield rf"^decode_head\.{theirs}\.batch_norm\.", f"{ours}.norm."


def _decoder() -> Iterator[Rule]:
    for i in range(4):
        yield rf"^backbone\.hidden_states_norms\.stage{i + 1}\.", f"decoder.norms.{i}."
    yield from _unit(r"psp_modules\.(\d)\.1", r"decoder.pooling.branches.\1")
    yield from _unit("bottleneck", "decoder.top")
    for i in range(3):  # transformers counts from the finest map, here the deepest comes first
        yield from _unit(rf"lateral_convs\.{i}", f"decoder.laterals.{2 - i}.project")
        yield from _unit(rf"fpn_convs\.{i}", f"decoder.refine.{2 - i}")
    yield from _unit("fpn_bottleneck", "decoder.fuse")
    yield r"^decode_head\.classifier\.", "head.conv."


def _convnext() -> Iterator[Rule]:
    ours = "encoder.backbone"
    yield r"^backbone\.embeddings\.patch_embeddings\.", f"{ours}.stem_0."
    yield r"^backbone\.embeddings\.layernorm\.", f"{ours}.stem_1."
    yield (
        r"^backbone\.encoder\.stages\.(\d)\.downsampling_layer\.",
        rf"{ours}.stages_\1.downsample.",
    )
    yield r"^backbone\.encoder\.stages\.(\d)\.layers\.", rf"{ours}.stages_\1.blocks."
    yield r"(blocks\.\d+)\.dwconv\.", r"\1.conv_dw."
    yield r"(blocks\.\d+)\.layernorm\.", r"\1.norm."
    yield r"(blocks\.\d+)\.pwconv(\d)\.", r"\1.mlp.fc\2."
    yield r"(blocks\.\d+)\.layer_scale_parameter$", r"\1.gamma"


def _swin() -> Iterator[Rule]:
    ours = "encoder.backbone"
    yield r"^backbone\.embeddings\.patch_embeddings\.projection\.", f"{ours}.patch_embed.proj."
    yield r"^backbone\.embeddings\.norm\.", f"{ours}.patch_embed.norm."
    for i in range(3):  # here a stage begins with what ends the one before in transformers
        theirs = rf"^backbone\.encoder\.layers\.{i}\.downsample\."
        yield theirs, f"{ours}.layers_{i + 1}.downsample."
    yield r"^backbone\.encoder\.layers\.(\d)\.blocks\.", rf"{ours}.layers_\1.blocks."
    yield r"(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."
    yield r"(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."
    yield r"(blocks\.\d+)\.attention\.self\.", r"\1.attn."
    yield r"(blocks\.\d+)\.attention\.output\.dense\.", r"\1.attn.proj."
    yield r"(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."
    yield r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."


def plan(tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> Plan:
    """What a checkpoint becomes.

    Raises:
        ConversionError: Something that cannot be brought over.
    """
    only(config, where, pool_scales=[1, 2, 3, 6])
    backbone = needed(config, "backbone_config", where)
    kind = backbone.get("model_type")
    stages = ["stage1", "stage2", "stage3", "stage4"]
    only(backbone, f"{where} (backbone_config)", out_features=stages, hidden_act="gelu")
    options: dict[str, Any] = {"drop_path_rate": backbone.get("drop_path_rate", 0.0)}
    if kind == "convnext":
        stem = tensor_of(tensors, "backbone.embeddings.patch_embeddings.weight", where)
        names, rules, eps = [f"convnext_{size}" for size in _CONVNEXTS], _convnext(), 1e-6
    elif kind == "swin":
        only(backbone, f"{where} (backbone_config)", mlp_ratio=4, use_absolute_embeddings=False)
        # Of transformers' norms only those in the blocks have it, the others torch's default.
        only(backbone, f"{where} (backbone_config)", layer_norm_eps=1e-5)
        stem = tensor_of(tensors, "backbone.embeddings.patch_embeddings.projection.weight", where)
        names, rules, eps = [f"swin_{size}" for size in _SWINS], _swin(), 1e-5
        # Of transformers' backbone each block has whole windows, and a map is padded before it is
        # shifted.
        options |= {"always_partition": True, "pad_first": True}
    else:
        raise ConversionError(
            f"{where} has a backbone {kind!r}; what can be brought over: convnext, swin."
        )
    attention = r"\.attention\.self\.(PART)\."
    merged = joined(tensors, attention, ("query", "key", "value"), "qkv")
    every = (*rules, *_decoder())
    renamed = rename(merged, every)
    return Plan(
        architecture="upernet",
        encoder=_encoder(names, renamed, where),
        arguments={
            "decoder_channels": tensor_of(tensors, TYPICAL, where).shape[0],
            "align_corners": False,
            "map_eps": eps,
            "encoder_options": options,
            "classes": tensor_of(tensors, "decode_head.classifier.weight", where).shape[0],
            "in_channels": stem.shape[1],
        },
        tensors=merged,
        rules=every,
        # The head beside the mask has a width that only transformers' config says, and serves its
        # loss; the backbone's last norm is of its classifier.
        unused=r"^auxiliary_head\.|^backbone\.(?:swin\.)?layernorm\.|\.relative_position_index$",
    )


def _encoder(names: list[str], tensors: Mapping[str, Tensor], where: str) -> str:
    """The network that has the shapes of the checkpoint."""
    prefix = "encoder.backbone."
    found = {
        name.removeprefix(prefix): tuple(value.shape)
        for name, value in tensors.items()
        if name.startswith(prefix) and not name.endswith("relative_position_index")
    }
    for name in names:
        whole = timm_meta.meta_backbone(name, {}).state_dict()
        if found.keys() == whole.keys() and all(
            found[key][:1] == tuple(value.shape)[:1] for key, value in whole.items()
        ):
            return name
    raise ConversionError(
        f"{where} has a backbone of other sizes than those that timm has; what can be brought "
        f"over: {', '.join(names)}."
    )
