"""From torchvision: the weights of its segmentation models, without torchvision."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .. import checks
from ..architectures.base import SegmentationModel, create_model
from ..errors import ConversionError
from ..files.checkpoint import open_checkpoint
from ..preprocessing import Normalization
from .blocks import blocks_of, parts_of
from .keymap import Rule, built, rename
from .origin import hint
from .refusing import refuses_oddities
from .smp.aspp import aspp_rules, check_rate

#: Blocks of the third stage -> the encoder.
_RESNETS = {6: "resnet50", 23: "resnet101"}
#: What all of torchvision's weights were trained with.
_NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_AUXILIARY: tuple[Rule, ...] = (
    (r"^aux_classifier\.0\.", "auxiliary_heads.encoder.conv.conv."),
    (r"^aux_classifier\.1\.", "auxiliary_heads.encoder.conv.norm."),
    (r"^aux_classifier\.4\.", "auxiliary_heads.encoder.logits."),
)


@dataclass(frozen=True)
class _Kind:
    """One of torchvision's segmentation models.

    Attributes:
        architecture: Ours.
        logits: The tensor that tells the number of classes.
        width: The tensor that tells the decoder's width.
        typical: A tensor that tells the kind from the others.
        rules: torchvision's names of tensors -> ours.
    """

    architecture: str
    logits: str
    width: str
    typical: str
    rules: tuple[Rule, ...]


_KINDS = (
    _Kind(
        "deeplabv3",
        "classifier.4.weight",
        "classifier.1.weight",
        "classifier.0.convs.0.0.weight",
        (
            (r"^classifier\.1\.", "decoder.conv.conv."),
            (r"^classifier\.2\.", "decoder.conv.norm."),
            (r"^classifier\.4\.", "head.conv."),
        ),
    ),
    _Kind(
        "fcn",
        "classifier.4.weight",
        "classifier.0.weight",
        "classifier.0.weight",
        (
            (r"^classifier\.0\.", "decoder.conv.conv."),
            (r"^classifier\.1\.", "decoder.conv.norm."),
            (r"^classifier\.4\.", "head.conv."),
        ),
    ),
    _Kind(
        "lraspp",
        "classifier.high_classifier.weight",
        "classifier.cbr.0.weight",
        "classifier.cbr.0.weight",
        (
            (r"^classifier\.cbr\.0\.", "decoder.project.conv."),
            (r"^classifier\.cbr\.1\.", "decoder.project.norm."),
            (r"^classifier\.scale\.1\.", "decoder.gate.conv."),
            (r"^classifier\.low_classifier\.", "fine_head.conv."),
            (r"^classifier\.high_classifier\.", "head.conv."),
        ),
    ),
)


@dataclass(frozen=True)
class _Backbone:
    """One of torchvision's backbones, and how its segmentation models dilate it."""

    encoder: str
    first: str
    output_stride: int
    dilation: str
    auxiliary_stride: int


@refuses_oddities
def from_torchvision(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    *,
    atrous_rates: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    weights: str | None = None,
) -> SegmentationModel:
    """A segmentation model of torchvision, with its logits.

    ``deeplabv3_resnet50``, ``deeplabv3_resnet101``, ``deeplabv3_mobilenet_v3_large``,
    ``fcn_resnet50``, ``fcn_resnet101`` and ``lraspp_mobilenet_v3_large``. Which one it is, classes
    and bands are found from the tensors; an auxiliary classifier becomes the auxiliary head
    (``auxiliary_stride``), which only :meth:`~segzoo.SegmentationModel.forward_heads` runs.
    torchvision's ``["out"]`` is what the model gives.

    Args:
        source: A checkpoint file (a download of torchvision's, or of a training loop), of which
            nothing is run, a state dict, or the model itself.
        atrous_rates: As they were given to torchvision's ``DeepLabHead``, where that was not its
            default, 12, 24 and 36: they leave no trace in tensors. Of DeepLabV3 only.
        class_names: One name for each class, kept with the model
            (``weights.meta["categories"]``).
        weights: Which set of weights to take, where the file has several: ``"model_ema"``.

    Returns:
        The model, in eval mode.

    Raises:
        ConversionError: It is no such checkpoint; the message says what is missing.
        StorageError: The file cannot be found or read.
        ArgumentError: Rates or names that the architecture does not take.
    """
    if atrous_rates is not None:
        atrous_rates = checks.sequence("atrous_rates", atrous_rates, check_rate)
    typical = [kind.typical for kind in _KINDS]
    checkpoint = open_checkpoint(source, typical=typical, weights=weights, with_config=False)
    tensors, where = checkpoint.tensors, checkpoint.where
    kind = _kind(tensors, where)
    backbone = _backbone(tensors, where)
    for name in (kind.logits, kind.width):
        if name not in tensors:
            raise ConversionError(
                f"{where} is no {kind.architecture} of torchvision: it has not the tensor {name}. "
                f"It has: {checks.shown(sorted(tensors))}."
            )
    bands = tensors[backbone.first].shape[1]
    options: dict[str, Any] = {"decoder_channels": tensors[kind.width].shape[0]}
    if kind.architecture == "deeplabv3":
        options |= {"atrous_rates": _rates(tensors, atrous_rates, where), "align_corners": False}
    elif atrous_rates is not None:
        raise ConversionError(f"{where} is of {kind.architecture}, which has no atrous_rates.")
    auxiliary = "aux_classifier.4.weight" in tensors

    def make() -> SegmentationModel:
        return create_model(
            kind.architecture,
            backbone.encoder,
            tensors[kind.logits].shape[0],
            in_channels=bands,
            output_stride=backbone.output_stride,
            dilation=backbone.dilation,
            auxiliary_stride=backbone.auxiliary_stride if auxiliary else None,
            normalization=_NORMALIZATION if bands == 3 else None,
            class_names=class_names,
            **options,
        )

    def place(model: SegmentationModel, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rules = (*_backbone_rules(model, backbone), *_head_rules(model, kind), *_AUXILIARY)
        return rename(given, rules)

    return built(make, place, checkpoint).eval()


def _kind(tensors: Mapping[str, Tensor], where: str) -> _Kind:
    for kind in _KINDS:
        if kind.typical in tensors:
            return kind
    typical = ", ".join(f"{kind.typical} ({kind.architecture})" for kind in _KINDS)
    raise ConversionError(
        f"{where} is no segmentation model of torchvision that is known here: it has none of the "
        f"tensors {typical}.{hint(tensors)} It has: {checks.shown(sorted(tensors))}."
    )


def _backbone(tensors: Mapping[str, Tensor], where: str) -> _Backbone:
    """The backbone of a checkpoint that has the tensors of one."""
    stem, mobile = "backbone.conv1.weight", "backbone.0.0.weight"
    if stem in tensors:
        found = (re.match(r"backbone\.layer3\.(\d+)\.", name) for name in tensors)
        blocks = len({match[1] for match in found if match})
        if blocks not in _RESNETS:
            raise ConversionError(
                f"{where} has a ResNet with {blocks} blocks in its third stage; what can be "
                f"brought over: {', '.join(_RESNETS.values())}."
            )
        # torchvision leaves the first block of a dilated stage its rate, as timm's option does.
        return _Backbone(_RESNETS[blocks], stem, 8, "timm", 16)
    if mobile in tensors and "backbone.16.0.weight" in tensors:
        return _Backbone("tv_mobilenetv3_large", mobile, 16, "convolutions", 8)
    raise ConversionError(
        f"{where} has not the backbone of a segmentation model of torchvision, neither the tensor "
        f"{stem} of a ResNet nor backbone.0.0.weight and backbone.16.0.weight of a MobileNetV3. It "
        f"has: {checks.shown(sorted(tensors))}."
    )


def _rates(
    tensors: Mapping[str, Tensor], given: tuple[int, ...] | None, where: str
) -> tuple[int, ...]:
    rates = (12, 24, 36) if given is None else given
    branches = {name.split(".")[3] for name in tensors if name.startswith("classifier.0.convs.")}
    if len(rates) != len(branches) - 2:
        raise ConversionError(
            f"{where} has {len(branches) - 2} dilated branches, but atrous_rates={rates}. Give the "
            "rates that torchvision's DeepLabHead was built with."
        )
    return rates


def _head_rules(model: Any, kind: _Kind) -> tuple[Rule, ...]:
    if kind.architecture == "deeplabv3":
        return (*aspp_rules(r"classifier\.0", model.decoder.aspp), *kind.rules)
    return kind.rules


def _backbone_rules(model: SegmentationModel, backbone: _Backbone) -> tuple[Rule, ...]:
    if backbone.first == "backbone.conv1.weight":
        return ((r"^backbone\.", "encoder.backbone."),)
    name = "encoder.backbone"
    rules: list[Rule] = [
        (r"^backbone\.0\.0\.", f"{name}.conv_stem."),
        (r"^backbone\.0\.1\.", f"{name}.bn1."),
    ]
    blocks = list(blocks_of(model.encoder.backbone))
    for i, (key, block) in enumerate(blocks, 1):
        parts = parts_of(block)
        for j, part in enumerate(parts):
            theirs = rf"^backbone\.{i}\." if i == len(blocks) else rf"^backbone\.{i}\.block\.{j}\."
            ours = f"{name}.{key}.{part.conv}."
            if part.norm is None:
                rules += [(rf"{theirs}fc1\.", f"{ours}conv_reduce.")]
                rules += [(rf"{theirs}fc2\.", f"{ours}conv_expand.")]
            else:
                rules += [(rf"{theirs}0\.", ours), (rf"{theirs}1\.", f"{name}.{key}.{part.norm}.")]
    return tuple(rules)
