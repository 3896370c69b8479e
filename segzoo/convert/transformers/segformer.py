"""transformers' SegformerForSemanticSegmentation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ...encoders.mix_transformer import SIZES
from ...errors import ConversionError
from ..keymap import Rule, rename
from .plan import Plan, joined, only, tensor_of

TYPICAL = "decode_head.linear_fuse.weight"
#: The names that version 5 has in memory -> those in files of all versions.
_IN_FILES: tuple[Rule, ...] = (
    (r"^segformer\.stages\.(\d)\.patch_embeddings\.", r"segformer.encoder.patch_embeddings.\1."),
    (r"^segformer\.stages\.(\d)\.blocks\.", r"segformer.encoder.block.\1."),
    (r"^segformer\.stages\.(\d)\.layer_norm\.", r"segformer.encoder.layer_norm.\1."),
    (r"\.layernorm_before\.", ".layer_norm_1."),
    (r"\.layernorm_after\.", ".layer_norm_2."),
    (r"\.attention\.q_proj\.", ".attention.self.query."),
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.sequence_reduction\.sequence_reduction\.", ".self.sr."),
    (r"\.attention\.sequence_reduction\.layer_norm\.", ".attention.self.layer_norm."),
    (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
    (r"^decode_head\.linear_projections\.", "decode_head.linear_c."),
)


def _rules() -> Iterator[Rule]:
    inside = "encoder.backbone.stages"
    yield r"^segformer\.encoder\.patch_embeddings\.(\d)\.proj\.", rf"{inside}.\1.embed.conv."
    yield r"^segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.", rf"{inside}.\1.embed.norm."
    yield r"^segformer\.encoder\.block\.(\d)\.", rf"{inside}.\1.blocks."
    yield r"^segformer\.encoder\.layer_norm\.(\d)\.", rf"{inside}.\1.norm."
    yield r"\.layer_norm_(\d)\.", r".norm\1."
    yield r"\.attention\.self\.sr\.", ".attention.reduce."
    yield r"\.attention\.self\.layer_norm\.", ".attention.norm."
    yield r"\.attention\.self\.", ".attention."
    yield r"\.attention\.output\.dense\.", ".attention.project."
    yield r"\.mlp\.dense1\.", ".ffn.expand."
    yield r"\.mlp\.dwconv\.dwconv\.", ".ffn.depthwise."
    yield r"\.mlp\.dense2\.", ".ffn.contract."
    for i in range(4):  # transformers counts from the finest map, here the deepest comes first
        yield rf"^decode_head\.linear_c\.{i}\.proj\.", f"decoder.projections.{3 - i}.linear."
    yield r"^decode_head\.linear_fuse\.", "decoder.fuse.conv."
    yield r"^decode_head\.batch_norm\.", "decoder.fuse.norm."
    yield r"^decode_head\.classifier\.", "head.conv."


def plan(tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> Plan:
    """What a checkpoint becomes.

    Raises:
        ConversionError: Something that cannot be brought over.
    """
    only(
        config,
        where,
        patch_sizes=[7, 3, 3, 3],
        strides=[4, 2, 2, 2],
        num_attention_heads=[1, 2, 5, 8],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratios=[4, 4, 4, 4],
        hidden_act="gelu",
        reshape_last_stage=True,
    )
    named = rename(tensors, _IN_FILES)
    fuse = tensor_of(named, TYPICAL, where)
    drop_path = config.get("drop_path_rate", 0.1)
    return Plan(
        architecture="segformer",
        encoder=_size(named, where),
        arguments={
            "decoder_channels": fuse.shape[0],
            "dropout": config.get("classifier_dropout_prob", 0.1),
            "align_corners": False,
            # The norms of transformers' model have torch's default, whatever the config says.
            "encoder_options": {"drop_path_rate": drop_path, "norm_eps": 1e-5},
            "classes": tensor_of(named, "decode_head.classifier.weight", where).shape[0],
            "in_channels": _stem(named, where).shape[1],
        },
        tensors=joined(named, r"\.attention\.self\.(PART)\.", ("key", "value"), "key_value"),
        rules=tuple(_rules()),
    )


def _stem(tensors: Mapping[str, Tensor], where: str) -> Tensor:
    return tensor_of(tensors, "segformer.encoder.patch_embeddings.0.proj.weight", where)


def _size(tensors: Mapping[str, Tensor], where: str) -> str:
    """The name of the encoder, of which the tensors tell channels and blocks."""
    stems = [f"segformer.encoder.patch_embeddings.{i}.proj.weight" for i in range(4)]
    channels = tuple(tensor_of(tensors, name, where).shape[0] for name in stems)
    found = (re.match(r"segformer\.encoder\.block\.(\d)\.(\d+)\.", name) for name in tensors)
    places = {(int(match[1]), int(match[2])) for match in found if match}
    blocks = tuple(sum(stage == i for stage, _ in places) for i in range(4))
    for name, size in SIZES.items():
        if (size.channels, size.blocks) == (channels, blocks):
            return name
    raise ConversionError(
        f"{where} has an encoder of {channels} channels and {blocks} blocks; what can be brought "
        f"over are the sizes of the paper, {', '.join(SIZES)}."
    )
