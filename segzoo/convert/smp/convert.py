"""From segmentation_models_pytorch, with the weights unchanged to the last bit.

What the checkpoint holds is deduced from its tensors; what they cannot tell (the name of a ``tu-``
encoder, how the decoder interpolates, atrous rates) comes from its config, or is smp's default, and
the log says so. Encoders are brought over where smp
builds the same layers as timm and takes their outputs at the same places; all others are refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ... import checks
from ...architectures.base import SegmentationModel, create_model
from ...config import Classification
from ...errors import ConversionError, nearest
from ...files.checkpoint import Checkpoint, open_checkpoint
from ...storage import allowed_options
from ..keymap import Rule, built, rename
from ..origin import hint
from ..refusing import check_config, refuses_oddities
from .architecture import SmpArchitecture, converters, told
from .encoders import EncoderPlan, dilation_of, recognise_encoder

_log = logging.getLogger(__name__)

#: Names that mean the same in every architecture.
_RULES: tuple[Rule, ...] = ((r"^classification_head\.3\.", "classification_head.linear."),)
#: What smp 0.6 writes into the config of any model, and what older versions wrote.
_KEYS = (
    *("encoder_name", "encoder_depth", "encoder_weights", "in_channels", "classes", "activation"),
    *("aux_params", "decoder_use_batchnorm", "upscale_mode", "output_stride", "_model_class"),
)
#: Names of older versions -> the present ones.
_OLD_KEYS = {"decoder_use_batchnorm": "decoder_use_norm", "upscale_mode": "decoder_interpolation"}
#: What smp's classification head does where its ``aux_params`` do not say.
_POOLING, _DROPOUT = "avg", 0.2


@refuses_oddities
def from_smp(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    weights: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> SegmentationModel:
    """A model of segmentation_models_pytorch as one of ours with the same logits.

    >>> import segmentation_models_pytorch as smp
    >>> theirs = smp.Unet("resnet18", encoder_weights=None, classes=3).eval()
    >>> from segzoo.convert import from_smp
    >>> ours = from_smp(theirs)
    >>> image = torch.rand(1, 3, 64, 64)
    >>> bool((ours(image) == theirs(image)).all())
    True

    Args:
        source: A checkpoint file (of ``torch.save``, a training loop or safetensors, whatever its
            name; nothing in it is run), a folder or ``"user/name"`` on the Hub that smp's
            ``save_pretrained`` wrote, a state dict, or the model itself.
        config: Arguments of smp's class, in its own names; they go before those that the source
            brings with it. Needed are only those that tensors do not show: ``encoder_name`` for
            ``tu-`` encoders, and, where they were not smp's defaults, ``decoder_interpolation``,
            ``encoder_output_stride``, ``decoder_atrous_rates``, ``encoder_output_indices``, the
            ``pooling`` of ``aux_params``, dropouts, and options that were for timm. Where one of
            them that changes the logits is not said, the log names the default that was taken.
        weights: Which set of weights to take, where the file has several: ``"model_ema"``.
        revision: Branch, tag or commit of a repository.
        token: Access token for a private repository.
        cache_dir: Where downloads are kept; None for the Hub's own cache.
        local_files_only: Do not touch the network.

    Returns:
        The model, in eval mode and in the floating point type of the checkpoint.

    Raises:
        ConversionError: It is no model of smp, or cannot be brought over exactly; the message says
            why.
        StorageError: The source cannot be found or read.
        ArgumentError: ``config`` is no mapping.
    """
    check_config(config)
    checkpoint = open_checkpoint(
        source,
        typical=[converter.typical for converter in converters().values()],
        weights=weights,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    tensors, where = checkpoint.tensors, checkpoint.where
    own = _own_config(checkpoint, source)
    said = {**own, **(config or {})}
    given = _given(said, where)
    architecture, converter = _converter(given.pop("_model_class", None), checkpoint)
    arguments = converter.arguments(tensors, given, where)
    given.setdefault("encoder_depth", converter.depth)
    arguments["classes"] = _classes(tensors, given, where)
    arguments["classification"] = _classification(tensors, given, where)
    name = given.pop("encoder_name", None) or recognise_encoder(tensors, where)
    options = _encoder_options(given, name, converter)
    plan = converter.plan_encoder(name, tensors, given, options)
    if "output_stride" in arguments:
        arguments["dilation"] = dilation_of(name, arguments["output_stride"])

    def make() -> SegmentationModel:
        return create_model(
            architecture,
            plan.encoder,
            in_channels=plan.in_channels,
            depth=plan.depth,
            encoder_options=plan.options,
            **plan.arguments,
            **arguments,
        )

    def place(model: SegmentationModel, read: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _renamed(model, read, plan, converter)

    model = built(make, place, checkpoint).eval()
    if "encoder_name" not in own:  # smp writes all of its arguments, or none
        _tell_assumed(said, converter, model, where)
    _log.info(
        "%s: %d tensors that smp never uses were left out.",
        where,
        len(tensors) - len(model.state_dict()),
    )
    return model


def _tell_assumed(
    said: Mapping[str, Any], converter: SmpArchitecture, model: SegmentationModel, where: str
) -> None:
    """Name in the log what changes the answers, and was neither said nor told by tensors."""
    names = {_OLD_KEYS.get(name, name) for name in said}
    assumed = {name: value for name, value in converter.untold.items() if name not in names}
    if model.config.classification is not None and "pooling" not in (said.get("aux_params") or {}):
        assumed["aux_params"] = {"pooling": _POOLING}
    if assumed:
        _log.warning(
            "%s: its tensors do not tell %s; taken as smp's default. Where the model was built "
            "otherwise its answers would be wrong: give config={...} with what it was built with, "
            "on the command line --config FILE, or put smp's config.json beside the checkpoint.",
            where,
            ", ".join(f"{name}={value!r}" for name, value in assumed.items()),
        )


def _own_config(checkpoint: Checkpoint, source: object) -> Mapping[str, Any]:
    """The config that came along; of a file only one of smp's, as any may lie in its folder."""
    config = checkpoint.config
    if not isinstance(source, (str, os.PathLike)) or "encoder_name" in config:
        return config
    if config and Path(source).is_file():
        _log.info("%s: the config.json beside it is none of smp's, and is not used.", source)
        return {}
    return config


def _converter(kind: str | None, checkpoint: Checkpoint) -> tuple[str, SmpArchitecture]:
    """Our architecture and its converter: by smp's name of the class, else by the tensors."""
    known = converters()
    if kind is None:
        fitting = [name for name in known if known[name].recognises(checkpoint.tensors)]
        if len(fitting) == 1:
            return fitting[0], known[fitting[0]]
        raise ConversionError(
            f"{checkpoint.where} is no model of segmentation_models_pytorch that is known by its "
            f"tensors ({', '.join(fitting) or 'none fits'}).{hint(checkpoint.tensors)} Give the "
            "name of its class, as smp has it: config={'_model_class': 'Unet'}. It has: "
            f"{checks.shown(sorted(checkpoint.tensors))}."
        )
    for name, converter in known.items():
        if converter.name == kind:
            _check_kind(converter, checkpoint)
            return name, converter
    names = [converter.name for converter in known.values()]
    raise ConversionError(
        f"{checkpoint.where} is a model of smp's architecture {kind!r}, which cannot be brought "
        f"over.{nearest(str(kind), names)} What can be: {', '.join(names)}."
    )


def _check_kind(converter: SmpArchitecture, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose tensors are those of another architecture than its config says."""
    if converter.recognises(checkpoint.tensors):
        return
    others = [other for other in converters().values() if other.recognises(checkpoint.tensors)]
    if len(others) == 1:
        raise ConversionError(
            f"The config of {checkpoint.where} says that it is a {converter.name}, its tensors are "
            f"those of smp's {others[0].name}. Where the config is wrong, give "
            f"config={{'_model_class': {others[0].name!r}}}."
        )


def _given(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """smp's arguments under their present names, without those that say nothing of the model."""
    # None says nothing, but of the head beside the masks: that there is to be none.
    given = {k: value for k, value in config.items() if value is not None or k == "aux_params"}
    given.pop("encoder_weights", None)
    for old, new in _OLD_KEYS.items():
        if old in given:
            given.setdefault(new, given.pop(old))
    if given.pop("output_stride", 32) != 32:
        raise ConversionError(f"{where} has a dilated encoder (output_stride).")
    activation = given.pop("activation", "identity")
    if activation != "identity":
        _log.warning(
            "The converted model gives logits, without the activation %r of %s.",
            activation,
            where,
        )
    return given


def _classes(tensors: Mapping[str, Tensor], given: dict[str, Any], where: str) -> int:
    """The number of classes, which the last tensor of smp's segmentation head tells."""
    heads = [
        name
        for name, value in tensors.items()
        if name.startswith("segmentation_head.") and name.endswith(".weight") and value.ndim == 4
    ]
    if not heads:
        raise ConversionError(f"{where} has no segmentation head: no tensor segmentation_head.*.")
    classes = tensors[heads[-1]].shape[0]
    told(given, {"classes": classes}, where)
    return classes


def _classification(
    tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
) -> Classification | None:
    """smp's ``aux_params``: image-level logits beside the mask; where nothing is said, as found."""
    unwanted = "aux_params" in given and given["aux_params"] is None
    options = dict(given.pop("aux_params", None) or {})
    weight = tensors.get("classification_head.3.weight")
    if weight is not None and unwanted:
        raise ConversionError(
            f"{where}: the config says aux_params=None, but there are tensors "
            f"classification_head.* of a head with {weight.shape[0]} classes. Leave aux_params out "
            "to bring the head over, or remove these tensors first."
        )
    if weight is None:
        if options:
            raise ConversionError(
                f"{where}: the config says aux_params, but it has no tensors classification_head.*."
            )
        return None
    if options.pop("activation", None) is not None:
        _log.warning("The converted model gives image-level logits, without the activation.")
    told(options, {"classes": weight.shape[0]}, where)
    pooling, dropout = options.pop("pooling", _POOLING), options.pop("dropout", _DROPOUT)
    if options:
        raise ConversionError(f"{where}: aux_params has {sorted(options)}, not known here.")
    return Classification(classes=weight.shape[0], pooling=pooling, dropout=dropout)


def _encoder_options(
    given: Mapping[str, Any], name: str, converter: SmpArchitecture
) -> dict[str, Any]:
    """What else the config holds: options of timm, for ``tu-`` encoders only."""
    known_by_now = ("in_channels", "encoder_depth", *converter.options)
    options = {key: value for key, value in given.items() if key not in known_by_now}
    for key in options:
        if not name.startswith("tu-") or key not in allowed_options.STORED_OPTIONS:
            known = (*_KEYS, *converter.options)
            raise ConversionError(
                f"The config has {checks.shown(key)}, which is not known here.{nearest(key, known)}"
            )
    return options


def _renamed(
    model: SegmentationModel,
    tensors: Mapping[str, Tensor],
    plan: EncoderPlan,
    converter: SmpArchitecture,
) -> dict[str, Tensor]:
    """The tensors under our names, without those that smp has but never uses."""
    inside = {name: value for name, value in tensors.items() if name.startswith("encoder.")}
    outside = {name: value for name, value in tensors.items() if name not in inside}
    encoder = rename(inside, ((r"^encoder\.(?:model\.)?", ""), *plan.rules))
    renamed = rename(outside, (*_RULES, *converter.renames(model)))
    renamed |= {f"encoder.backbone.{name}": value for name, value in encoder.items()}
    expected = model.state_dict()
    # smp builds stages below the encoder's depth and does not use them.
    beyond = {f"encoder.backbone.{name}": shape for name, shape in plan.whole.items()}
    unused = [
        name
        for name in renamed.keys() - expected.keys()
        if converter.is_unused(name, model) or beyond.get(name) == tuple(renamed[name].shape)
    ]
    for name in unused:
        del renamed[name]
    return renamed
