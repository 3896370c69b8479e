"""smp's own encoders that are the same networks here, and what becomes of their tensors' names.

Some are timm's as they are. Of others smp takes the maps elsewhere than timm does; those are
encoders of segzoo's own (:data:`~segzoo.encoders.recipes.BUILT_IN`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from ..blocks import blocks_of, parts_of
from ..keymap import Rule

#: Rules for the tensors of an encoder, asked of the network itself.
RulesOf = Callable[[nn.Module], tuple[Rule, ...]]


@dataclass(frozen=True)
class Family:
    """A family of smp's own encoders that is here layer by layer, maps at the same places.

    Args:
        pattern: smp's names, as a whole.
        name: The name here, as a replacement for the pattern.
        rules: What becomes of the names of tensors, after ``encoder.``.
        rules_of: The same, where it depends on the network.
        typical: A tensor that each of them has, and few others.
        names: smp's names, where the encoders are not timm's.
        least_stride: The smallest output stride to which smp's dilation and that here are alike.
    """

    pattern: str
    name: str
    rules: tuple[Rule, ...] = ()
    rules_of: RulesOf | None = None
    typical: str = ""
    names: tuple[str, ...] = ()
    least_stride: int = 8


def _mit() -> Iterator[Rule]:
    for i in range(4):
        ours = f"stages.{i}"
        yield rf"^patch_embed{i + 1}\.proj\.", f"{ours}.embed.conv."
        yield rf"^patch_embed{i + 1}\.norm\.", f"{ours}.embed.norm."
        yield rf"^block{i + 1}\.", f"{ours}.blocks."
        yield rf"^norm{i + 1}\.", f"{ours}.norm."
    yield r"\.attn\.q\.", ".attention.query."
    yield r"\.attn\.kv\.", ".attention.key_value."
    yield r"\.attn\.proj\.", ".attention.project."
    yield r"\.attn\.sr\.", ".attention.reduce."
    yield r"\.attn\.norm\.", ".attention.norm."
    yield r"\.mlp\.fc1\.", ".ffn.expand."
    yield r"\.mlp\.dwconv\.dwconv\.", ".ffn.depthwise."
    yield r"\.mlp\.fc2\.", ".ffn.contract."


def _efficientnet(backbone: nn.Module) -> tuple[Rule, ...]:
    """smp numbers the blocks through, and its own names for their parts come from TensorFlow's."""
    rules = [(r"^_conv_stem\.", "conv_stem."), (r"^_bn0\.", "bn1.")]
    rules += [(r"^_conv_head\.", "conv_head."), (r"^_bn1\.", "bn2.")]
    for i, (key, block) in enumerate(blocks_of(backbone)):
        theirs = rf"^_blocks\.{i}\."
        convs = [part for part in parts_of(block) if part.norm is not None]
        names = ("_expand_conv", "_depthwise_conv", "_project_conv")[-len(convs) :]
        norms = ("_bn0", "_bn1", "_bn2")[-len(convs) :]
        for part, conv, norm in zip(convs, names, norms, strict=True):
            rules.append((rf"{theirs}{conv}\.", f"{key}.{part.conv}."))
            rules.append((rf"{theirs}{norm}\.", f"{key}.{part.norm}."))
        rules.append((rf"{theirs}_se_(\w+)\.", rf"{key}.se.conv_\1."))
    return tuple(rules)


def _mobilenet(backbone: nn.Module) -> tuple[Rule, ...]:
    """smp's is torchvision's, which numbers the parts of a block, units before single layers."""
    blocks = list(blocks_of(backbone))
    last = len(blocks) + 1
    rules = [(r"^features\.0\.0\.", "conv_stem."), (r"^features\.0\.1\.", "bn1.")]
    rules += [(rf"^features\.{last}\.0\.", "conv_head."), (rf"^features\.{last}\.1\.", "bn2.")]
    for i, (key, block) in enumerate(blocks, 1):
        parts = parts_of(block)
        for j, part in enumerate(parts):
            theirs = rf"^features\.{i}\.conv\."
            end = j == len(parts) - 1
            conv, norm = (f"{j}", f"{j + 1}") if end else (rf"{j}\.0", rf"{j}\.1")
            rules.append((rf"{theirs}{conv}\.", f"{key}.{part.conv}."))
            rules.append((rf"{theirs}{norm}\.", f"{key}.{part.norm}."))
    return tuple(rules)


_SIZES = tuple(f"b{i}" for i in range(8))
#: Not here are smp's own encoders that differ from every network of timm in a layer or in padding;
#: :data:`REASONS` says in what.
FAMILIES = (
    Family(r"(resnet\d+|resnext\d+_\w+)", r"\1"),
    Family(
        r"se_(resnet\d+|resnext\d+_\w+)", r"legacy_se\1", ((r"^layer0_pool\.", "layer0.pool."),)
    ),
    Family(r"(senet\d+)", r"legacy_\1"),
    Family(r"(vgg\d+(?:_bn)?)", r"\1", ((r"^features\.", "features_"),)),
    Family(
        r"(mit_b\d)",
        r"\1",
        tuple(_mit()),
        typical="patch_embed1.proj.weight",
        names=tuple(f"mit_b{i}" for i in range(6)),
        least_stride=16,  # smp pads the reduced maps of stage 3 otherwise
    ),
    Family(
        r"efficientnet-(b\d)",
        r"smp_efficientnet_\1",
        rules_of=_efficientnet,
        typical="_conv_stem.weight",
        names=tuple(f"efficientnet-{size}" for size in _SIZES),
    ),
    Family(
        r"timm-(?:tf_)?efficientnet[-_](b\d|l2|lite\d)",
        r"smp_timm_efficientnet_\1",
        ((r"^blocks\.(\d+)\.(\d+)\.", r"blocks_\1_\2."),),
        typical="conv_stem.weight",
        names=(
            *(f"timm-efficientnet-{size}" for size in (*_SIZES, "b8", "l2")),
            *(f"timm-tf_efficientnet_lite{i}" for i in range(5)),
        ),
    ),
    Family(
        r"mobilenet_v2",
        r"smp_mobilenet_v2",
        rules_of=_mobilenet,
        typical="features.18.0.weight",
        names=("mobilenet_v2",),
    ),
    Family(
        r"(densenet\d+)",
        r"smp_\1",
        (
            (r"^features\.(transition\d)\.(\w+)\.", r"features_\1_\2."),
            (r"^features\.", "features_"),
        ),
        typical="features.transition1.norm.weight",
        names=tuple(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    ),
)
#: smp's other encoders, and what keeps them from being brought over.
REASONS = (
    (r"dpn\d+b?", "smp puts a ReLU on its maps, which those of timm's DPN have not"),
    (r"inception\w+", "smp pads its convolutions and poolings, timm's does not"),
    (r"xception", "smp pads its first convolutions, timm's does not"),
    (r"mobileone_s\d", "smp adds up its branches in another order than timm"),
    (r"timm-sk\w+", "its selective kernels are built with other settings than timm's"),
)


def reason_for(name: str) -> str:
    """Why smp's encoder of that name is not here."""
    for pattern, reason in REASONS:
        if re.match(pattern, name):
            return reason
    return "there is no network with the same layers whose maps are taken at the same places"
