"""From torchvision: the weights of its DeepLabV3 with a ResNet, without torchvision."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .. import checks
from ..architectures.deeplabv3 import DeepLabV3
from ..encoders import build_on_meta
from ..errors import ConversionError
from ..files.checkpoint import open_checkpoint
from ..preprocessing import Normalization
from .keymap import Rule, fill, rename
from .smp.aspp import aspp_rules

#: Blocks of the third stage -> the encoder.
_ENCODERS = {6: "resnet50", 23: "resnet101"}
#: What all of torchvision's weights were trained with.
_NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_RULES: tuple[Rule, ...] = (
    (r"^backbone\.", "encoder.backbone."),
    (r"^classifier\.1\.", "decoder.conv.conv."),
    (r"^classifier\.2\.", "decoder.conv.norm."),
    (r"^classifier\.4\.", "head.conv."),
    (r"^aux_classifier\.0\.", "auxiliary_heads.encoder.conv.conv."),
    (r"^aux_classifier\.1\.", "auxiliary_heads.encoder.conv.norm."),
    (r"^aux_classifier\.4\.", "auxiliary_heads.encoder.logits."),
)


def from_torchvision(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    *,
    atrous_rates: Sequence[int] = (12, 24, 36),
    class_names: Sequence[str] | None = None,
) -> DeepLabV3:
    """torchvision's ``deeplabv3_resnet50`` or ``deeplabv3_resnet101``, equal to the last bit.

    Encoder, classes and bands are found from the tensors; an auxiliary classifier becomes the
    auxiliary head (``auxiliary_stride=16``), which only :meth:`~segzoo.DeepLabV3.forward_heads`
    runs. torchvision's ``["out"]`` is what the model gives.

    Args:
        source: A checkpoint file (a download of torchvision's, or of a training loop), which is
            opened with ``weights_only=True``, a state dict, or the model itself.
        atrous_rates: As they were given to torchvision's ``DeepLabHead``, where that was not its
            default: they leave no trace in tensors.
        class_names: One name for each class, kept with the model
            (``weights.meta["categories"]``).

    Returns:
        The model, in eval mode.

    Raises:
        ConversionError: It is no such checkpoint; the message says what is missing.
        StorageError: The file cannot be found or read.
        ArgumentError: Rates or names that :class:`~segzoo.DeepLabV3` does not take.
    """
    checkpoint = open_checkpoint(source)
    tensors, where = checkpoint.tensors, checkpoint.where
    encoder = _encoder(tensors, where)
    branches = {name.split(".")[3] for name in tensors if name.startswith("classifier.0.convs.")}
    rates = tuple(atrous_rates)
    if len(rates) != len(branches) - 2:
        raise ConversionError(
            f"{where} has {len(branches) - 2} dilated branches, but atrous_rates={rates}. Give the "
            "rates that torchvision's DeepLabHead was built with."
        )
    bands = tensors["backbone.conv1.weight"].shape[1]
    # Every value comes from the checkpoint.
    model = build_on_meta(
        lambda: DeepLabV3(
            encoder,
            tensors["classifier.4.weight"].shape[0],
            in_channels=bands,
            output_stride=8,
            dilation="timm",  # torchvision too leaves the first block of a stage its rate
            decoder_channels=tensors["classifier.1.weight"].shape[0],
            atrous_rates=rates,
            align_corners=False,
            auxiliary_stride=16 if "aux_classifier.4.weight" in tensors else None,
            normalization=_NORMALIZATION if bands == 3 else None,
            class_names=None if class_names is None else tuple(class_names),
        )
    )
    model.to_empty(device="cpu")
    rules = (*aspp_rules(r"classifier\.0", model.decoder.aspp), *_RULES)
    fill(model, rename(tensors, rules), source=where)
    return model.eval()


def _encoder(tensors: Mapping[str, Tensor], where: str) -> str:
    """The name of the encoder, of a checkpoint that has what every one of these has."""
    needed = ("backbone.conv1.weight", "classifier.0.convs.0.0.weight")
    for name in (*needed, "classifier.1.weight", "classifier.4.weight"):
        if name not in tensors:
            raise ConversionError(
                f"{where} is no deeplabv3_resnet50 or deeplabv3_resnet101 of torchvision: it has "
                f"not the tensor {name}. It has: {checks.shown(sorted(tensors))}."
            )
    found = (re.match(r"backbone\.layer3\.(\d+)\.", name) for name in tensors)
    blocks = len({match[1] for match in found if match})
    if blocks not in _ENCODERS:
        raise ConversionError(
            f"{where} has a ResNet with {blocks} blocks in its third stage; what can be brought "
            f"over: {', '.join(_ENCODERS.values())}."
        )
    return _ENCODERS[blocks]
