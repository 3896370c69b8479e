"""From fastai 2: the weights of a ``unet_learner``, without fastai.

What ``learn.save``, ``learn.export`` and ``torch.save(learn.model)`` write is read as names and
tensors; nothing in it is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..architectures.dynamic_unet import DynamicUnet
from ..encoders import build_on_meta, create_encoder
from ..errors import ConversionError
from ..files.checkpoint import open_checkpoint
from .keymap import Rule, built, rename
from .origin import hint
from .refusing import refuses_oddities

#: The encoders that ``unet_learner`` gives the layout of keys below: torchvision's ResNets.
ENCODERS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d"),
)

_ENCODER_RULES: tuple[Rule, ...] = (
    (r"^layers\.0\.0\.", "encoder.backbone.conv1."),
    (r"^layers\.0\.1\.", "encoder.backbone.bn1."),
    *((rf"^layers\.0\.{i}\.", f"encoder.backbone.layer{i - 3}.") for i in range(4, 8)),
)
#: The first convolution of the encoder, which every checkpoint of fastai 2 has.
_FIRST = "layers.0.0.weight"
_SAVE = "torch.save(learn.model.state_dict(), 'weights.pth')"


@refuses_oddities
def from_fastai(
    checkpoint: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    encoder: str | None = None,
    *,
    blur: bool = False,
    blur_final: bool = True,
    y_range: tuple[float, float] | None = None,
    act: str = "relu",
    class_names: Sequence[str] | None = None,
    weights: str | None = None,
) -> DynamicUnet:
    """The model of a fastai ``unet_learner`` with a ResNet, its weights unchanged to the last bit.

    The encoder, classes, bands, ``last_cross``, ``self_attention`` and ``norm`` are found from the
    names and shapes. What leaves no trace in them has to be said: ``blur``, ``blur_final``,
    ``y_range`` and ``act``, as they were given to ``unet_learner``; with a wrong one the model
    loads, and its outputs are wrong.

    Args:
        checkpoint: A file of ``learn.save`` (with or without the optimiser's state), of
            ``learn.export`` or of ``torch.save(learn.model.state_dict(), ...)``, such a state dict,
            or the model.
        encoder: Name of the encoder, only to be checked; None to find it.
        class_names: One name for each class, kept with the model (``list(dls.vocab)``).
        weights: Which set of weights to take, where the file has several: ``"model_ema"``.

    Returns:
        The model, in eval mode.

    Raises:
        ConversionError: It is no such checkpoint, of fastai 1, or of another encoder; the message
            says what to do.
        StorageError: The file cannot be found or read.
        ArgumentError: An option that :class:`~segzoo.DynamicUnet` does not take.
    """
    found = open_checkpoint(checkpoint, typical=(_FIRST,), weights=weights, with_config=False)
    tensors, source = found.tensors, found.where
    rules = key_rules(tensors, source)
    name = _encoder(tensors, encoder, source)
    classes = _classes(rename(tensors, rules), source)
    names: Any = class_names  # as they are given: the config checks them

    def make() -> DynamicUnet:
        return DynamicUnet(
            name,
            classes,
            in_channels=tensors[_FIRST].shape[1],
            blur=blur,
            blur_final=blur_final,
            y_range=y_range,
            act=act,
            norm=_norm(tensors),
            self_attention=any(key.endswith(".gamma") for key in tensors),
            last_cross=any(".convpath." in key for key in tensors),
            class_names=names,
        )

    options = f"blur={blur}, blur_final={blur_final}, y_range={y_range}, act={act!r}"
    return built(
        make,
        lambda _, given: rename(given, rules),
        found,
        source=f"{source} (with {options})",
    ).eval()


def _indices(names: Mapping[str, Tensor], pattern: str) -> list[int]:
    """The numbers of the layers that have a tensor of that name, ascending."""
    matches = (re.match(rf"layers\.(\d+)\.{pattern}", name) for name in names)
    return sorted({int(match.group(1)) for match in matches if match})


def _check_layout(tensors: Mapping[str, Tensor], source: str) -> list[int]:
    """The numbers of the U-Net blocks, if this is what fastai 2 makes of a ResNet."""
    if _indices(tensors, r"shuf\.conv\."):
        raise ConversionError(
            f"{source} comes from fastai 1, whose layers differ. Train or load it in fastai 2, and "
            f"there: {_SAVE}"
        )
    blocks = _indices(tensors, r"shuf\.")
    if not blocks:
        raise ConversionError(
            f"{source} is no DynamicUnet of fastai: no layers.N.shuf among its {len(tensors)} "
            f"names {list(tensors)[:3]}.{hint(tensors)} Give what unet_learner trained."
        )
    if _FIRST not in tensors or "layers.0.4.0.conv1.weight" not in tensors:
        raise ConversionError(
            f"{source} has an encoder that is no ResNet of torchvision "
            f"({[name for name in tensors if name.startswith('layers.0.')][:3]}); only those can "
            f"be brought over: {', '.join(ENCODERS)}."
        )
    return blocks


def _encoder(tensors: Mapping[str, Tensor], given: str | None, source: str) -> str:
    """The name of the encoder whose weights have these names and shapes."""
    prefix = "encoder.backbone."
    shapes = {
        name.removeprefix(prefix): tuple(tensor.shape)
        for name, tensor in rename(tensors, _ENCODER_RULES).items()
        if name.startswith(prefix)
    }
    if given is not None and shapes == _shapes(given, shapes["conv1.weight"][1]):
        return given
    found = next(_fitting(shapes), None)
    if found is None:
        nor = "" if given is None else f", nor {given!r}"
        raise ConversionError(
            f"{source} holds an encoder that is none of {', '.join(ENCODERS)}{nor}: it has "
            f"{len(shapes)} tensors, the last of them {list(shapes)[-1]!r}."
        )
    if given is not None:
        raise ConversionError(
            f"{source} does not hold a {given!r}: its encoder looks like {found!r}. Give "
            f"encoder={found!r}, or leave it out."
        )
    return found


def _fitting(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name in ENCODERS:
        if shapes == _shapes(name, shapes["conv1.weight"][1]):
            yield name


def _shapes(encoder: str, in_channels: int) -> dict[str, tuple[int, ...]]:
    made = build_on_meta(lambda: create_encoder(encoder, in_channels=in_channels))
    backbone = made.backbone
    return {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}


def _norm(tensors: Mapping[str, Tensor]) -> str:
    """The normalisation of the decoder, by what the bridge's first convolution has."""
    if "layers.3.0.0.weight_g" in tensors:
        return "weight"
    if "layers.3.0.0.weight_orig" in tensors:
        return "spectral"
    if "layers.3.0.1.running_mean" in tensors:
        return "batch"
    return "instance" if "layers.3.0.1.weight" in tensors else "none"


def _classes(renamed: Mapping[str, Tensor], source: str) -> int:
    for name in ("weight", "direction"):
        if f"head.conv.{name}" in renamed:
            return renamed[f"head.conv.{name}"].shape[0]
    raise ConversionError(f"{source} lacks the last convolution, the one that gives the classes.")


def key_rules(tensors: Mapping[str, Tensor], source: str) -> list[Rule]:
    """The rules that turn fastai's names into ours; layer numbers depend on the options.

    Args:
        tensors: The state dict of a ``unet_learner``'s model.
        source: Where it comes from, for the message.

    Raises:
        ConversionError: It is no DynamicUnet of fastai 2 with a ResNet.
    """
    blocks = _check_layout(tensors, source)
    rules: list[Rule] = [
        *_ENCODER_RULES,
        (r"^layers\.1\.", "decoder.bridge.norm."),
        (r"^layers\.3\.0\.", "decoder.bridge.conv1."),
        (r"^layers\.3\.1\.", "decoder.bridge.conv2."),
    ]
    for number, layer in enumerate(blocks):
        block = f"decoder.blocks.{number}."
        rules += [
            (rf"^layers\.{layer}\.shuf\.0\.", f"{block}up.conv."),
            (rf"^layers\.{layer}\.bn\.", f"{block}norm."),
            # Behind the convolution, its norm if it has one, and the activation.
            (rf"^layers\.{layer}\.conv2\.[23]\.", f"{block}attention."),
            (rf"^layers\.{layer}\.(conv[12])\.", rf"{block}\1."),
        ]
    for layer in (i for i in _indices(tensors, "") if i > blocks[-1]):
        rules += [
            (rf"^layers\.{layer}\.convpath\.0\.", "decoder.refine.conv1."),
            (rf"^layers\.{layer}\.convpath\.1\.", "decoder.refine.conv2."),
            (rf"^layers\.{layer}\.0\.(\d+)\.", r"decoder.up.conv.\1."),
            (rf"^layers\.{layer}\.", "head."),
        ]
    return [
        *rules,
        (r"\.attention\.(query|key|value)\.0\.weight_v$", r".attention.\1.right"),
        (r"\.attention\.(query|key|value)\.0\.", r".attention.\1."),
        (r"^((?:decoder.*\.conv[12]?)|head)\.0\.", r"\1.conv."),
        (r"^((?:decoder.*\.conv[12]?)|head)\.1\.", r"\1.norm."),
        (r"\.weight_orig$", ".weight"),
        (r"\.weight_u$", ".left"),
        (r"\.weight_g$", ".magnitude"),
        (r"\.weight_v$", ".direction" if _norm(tensors) == "weight" else ".right"),
    ]
