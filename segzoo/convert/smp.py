"""From segmentation_models_pytorch: its Unet, with the weights unchanged to the last bit.

What the checkpoint holds is deduced from its tensors; what it cannot tell (the name of a ``tu-``
encoder, how the decoder interpolates) comes from its config. Encoders are brought over where smp
builds the same layers as timm and takes their outputs at the same places; all others are refused.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .. import checks, stored_options
from ..checkpoints import Checkpoint, open_checkpoint
from ..errors import ArgumentError, ConversionError, nearest
from ..layers import INTERPOLATIONS
from ..models import Unet
from .keymap import Rule, fill, rename
from .smp_encoders import EncoderPlan, plan_encoder, recognise_encoder, whole_shapes

_log = logging.getLogger(__name__)

#: The names of smp's Unet in ours. ``tu-`` encoders have a ``model.`` of their own in front.
UNET_RULES: tuple[Rule, ...] = (
    (r"^encoder\.(?:model\.)?", "encoder.backbone."),
    (r"^(decoder\.(?:blocks\.\d+\.conv[12]|center\.[01]))\.0\.", r"\1.conv."),
    (r"^(decoder\.(?:blocks\.\d+\.conv[12]|center\.[01]))\.1\.", r"\1.norm."),
    (r"^(decoder\.blocks\.\d+\.attention[12])\.attention\.cSE\.1\.", r"\1.squeeze."),
    (r"^(decoder\.blocks\.\d+\.attention[12])\.attention\.cSE\.3\.", r"\1.excite."),
    (r"^(decoder\.blocks\.\d+\.attention[12])\.attention\.sSE\.0\.", r"\1.spatial."),
    (r"^segmentation_head\.0\.", "head.conv."),
)
#: smp's names for its normalisation layers -> ours. Its layernorm crashes on every image.
_NORMS = {"batchnorm": "batch", "instancenorm": "instance", "identity": "none"}
#: What smp 0.6 writes into the config of a Unet, and what older versions wrote.
_KEYS = (
    *("encoder_name", "encoder_depth", "encoder_weights", "decoder_use_norm", "decoder_channels"),
    *("decoder_attention_type", "decoder_interpolation", "in_channels", "classes", "activation"),
    *("aux_params", "decoder_use_batchnorm", "upscale_mode", "output_stride", "_model_class"),
)


def from_smp(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Unet:
    """A Unet of segmentation_models_pytorch as a :class:`segzoo.Unet` with the same logits.

    >>> import segmentation_models_pytorch as smp
    >>> theirs = smp.Unet("resnet18", encoder_weights=None, classes=3).eval()
    >>> from segzoo.convert import from_smp
    >>> ours = from_smp(theirs).eval()
    >>> image = torch.rand(1, 3, 64, 64)
    >>> bool((ours(image) == theirs(image)).all())
    True

    Args:
        source: A checkpoint file (``.safetensors``, or ``.pth``, ``.pt``, ``.ckpt``, which are
            opened with ``weights_only=True``), a folder or ``"user/name"`` on the Hub that smp's
            ``save_pretrained`` wrote, a state dict, or the model itself.
        config: Arguments of ``smp.Unet``, in its own names; they go before those that the source
            brings with it. Needed are only those that tensors do not show: ``encoder_name`` for
            ``tu-`` encoders, and ``decoder_interpolation`` where it is not ``nearest``.
        revision: Branch, tag or commit of a repository.
        token: Access token for a private repository.
        cache_dir: Where downloads are kept; None for the Hub's own cache.
        local_files_only: Do not touch the network.

    Raises:
        ConversionError: It is no Unet of smp, or cannot be brought over exactly; the message says
            why.
        StorageError: The source cannot be found or read.
    """
    checkpoint = open_checkpoint(
        source,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    given = _given({**checkpoint.config, **(config or {})}, checkpoint)
    tensors = checkpoint.tensors
    arguments = _deduced(checkpoint)
    _compare(given, arguments, checkpoint.where)
    depth = len(arguments["decoder_channels"])
    name = given.pop("encoder_name", None) or recognise_encoder(tensors, checkpoint.where)
    plan = plan_encoder(name, tensors, depth, _encoder_options(given, name))
    model = Unet(
        plan.encoder,
        in_channels=plan.in_channels,
        depth=plan.depth,
        encoder_options=plan.options,
        interpolation=_interpolation(given),
        rounding="down",  # matters only where the encoder begins at stride 4, at odd sizes
        **arguments,
    )
    fill(model, _renamed(model, tensors, plan, checkpoint.where), source=checkpoint.where)
    return model


def _given(config: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """smp's arguments under their present names, without those that say nothing of the model."""
    kind = config.get("_model_class", "Unet")
    if kind != "Unet":
        raise ConversionError(
            f"{checkpoint.where} is a model of smp's architecture {kind!r}; only Unet can be "
            "brought over."
        )
    given = {name: value for name, value in config.items() if value is not None}
    for name in ("_model_class", "encoder_weights"):
        given.pop(name, None)
    for old, new in (
        ("decoder_use_batchnorm", "decoder_use_norm"),
        ("upscale_mode", "decoder_interpolation"),
    ):
        if old in given:
            given.setdefault(new, given.pop(old))
    if given.pop("aux_params", None):
        raise ConversionError(
            f"{checkpoint.where} has a classification head (aux_params), which segzoo.Unet has "
            "not. For the masks alone, drop the tensors classification_head.* and aux_params."
        )
    if given.pop("output_stride", 32) != 32:
        raise ConversionError(f"{checkpoint.where} has a dilated encoder (output_stride).")
    activation = given.pop("activation", "identity")
    if activation != "identity":
        _log.warning(
            "The converted model gives logits, without the activation %r of %s.",
            activation,
            checkpoint.where,
        )
    return given


def _deduced(checkpoint: Checkpoint) -> dict[str, Any]:
    """Arguments of segzoo.Unet that names and shapes of tensors tell."""
    tensors = checkpoint.tensors
    blocks = {
        int(found[1])
        for found in map(re.compile(r"decoder\.blocks\.(\d+)\.conv1\.0\.weight").fullmatch, tensors)
        if found
    }
    head = tensors.get("segmentation_head.0.weight")
    if not blocks or blocks != set(range(len(blocks))) or head is None or head.ndim != 4:
        raise ConversionError(
            f"{checkpoint.where} is no Unet of segmentation_models_pytorch: it has not the "
            "tensors decoder.blocks.0.conv1.0.weight ... and segmentation_head.0.weight. It has: "
            f"{checks.shown(sorted(tensors))}."
        )
    if any(name.startswith("classification_head.") for name in tensors):
        raise ConversionError(
            f"{checkpoint.where} has a classification head (aux_params), which segzoo.Unet has "
            "not. For the masks alone, drop the tensors classification_head.* and aux_params."
        )
    return {
        "classes": head.shape[0],
        "decoder_channels": tuple(
            tensors[f"decoder.blocks.{i}.conv1.0.weight"].shape[0] for i in sorted(blocks)
        ),
        "norm": _norm(tensors),
        "attention": (
            "scse" if "decoder.blocks.0.attention2.attention.cSE.1.weight" in tensors else "none"
        ),
        "center": "decoder.center.0.0.weight" in tensors,
    }


def _norm(tensors: Mapping[str, Tensor]) -> str:
    conv = "decoder.blocks.0.conv1"
    if f"{conv}.0.bias" in tensors:
        return "none"
    return "batch" if f"{conv}.1.running_mean" in tensors else "instance"


def _compare(given: dict[str, Any], arguments: Mapping[str, Any], where: str) -> None:
    """Take from ``given`` what tensors tell as well, and refuse what contradicts them."""
    told: dict[str, Any] = {
        "classes": arguments["classes"],
        "encoder_depth": len(arguments["decoder_channels"]),
        "decoder_channels": list(arguments["decoder_channels"]),
        "decoder_attention_type": arguments["attention"],
    }
    for name, found in told.items():
        value = given.pop(name, found)
        if (list(value) if isinstance(value, (list, tuple)) else value) != found:
            raise ConversionError(
                f"{where}: the config says {name}={checks.shown(value)}, its tensors say {found}."
            )
    norm = _norm_of(given.pop("decoder_use_norm", None), where)
    if norm is not None and norm != arguments["norm"]:
        raise ConversionError(
            f"{where}: the config says decoder_use_norm={norm!r}, its tensors say "
            f"{arguments['norm']!r} (in segzoo's names)."
        )


def _norm_of(value: Any, where: str) -> str | None:
    """Our name of what smp's ``decoder_use_norm`` says, or None where it says nothing."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "batch" if value else "none"
    options = dict(value) if isinstance(value, Mapping) else {"type": value}
    kind = str(options.pop("type", None)).lower()
    if kind not in _NORMS:
        raise ConversionError(
            f"{where}: decoder_use_norm={checks.shown(value)} cannot be brought over exactly; "
            f"what can: {', '.join(_NORMS)}."
        )
    batch = kind == "batchnorm"
    defaults = {"eps": 1e-5, "momentum": 0.1, "track_running_stats": batch, "affine": True}
    for name, setting in options.items():
        if name not in defaults or setting != defaults[name]:
            raise ConversionError(
                f"{where}: decoder_use_norm has {name}={checks.shown(setting)}, which segzoo's "
                "layer has not."
            )
    return _NORMS[kind]


def _interpolation(given: Mapping[str, Any]) -> str:
    try:
        return checks.choice(
            "decoder_interpolation", given.get("decoder_interpolation", "nearest"), INTERPOLATIONS
        )
    except ArgumentError as error:
        raise ConversionError(str(error)) from error


def _encoder_options(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What else the config holds: options of timm, for ``tu-`` encoders only."""
    options = {
        key: value
        for key, value in given.items()
        if key not in ("decoder_interpolation", "in_channels")
    }
    for key in options:
        if not name.startswith("tu-") or key not in stored_options.STORED_OPTIONS:
            raise ConversionError(
                f"The config has {checks.shown(key)}, which is not known here.{nearest(key, _KEYS)}"
            )
    return options


def _renamed(
    model: Unet, tensors: Mapping[str, Tensor], plan: EncoderPlan, where: str
) -> dict[str, Tensor]:
    """The tensors under our names, without those that smp has but never uses."""
    renamed = rename(tensors, (*UNET_RULES, *plan.rules))
    expected = model.state_dict()
    # smp builds attention before the last block and stages below the encoder's depth, and uses
    # neither; nothing else may be left out.
    last = f"decoder.blocks.{len(model.decoder.blocks) - 1}.attention1."
    beyond = whole_shapes(plan)
    unused = [
        name
        for name in renamed.keys() - expected.keys()
        if name.startswith(last) or beyond.get(name) == tuple(renamed[name].shape)
    ]
    for name in unused:
        del renamed[name]
    _log.info("%s: %d tensors that smp never uses were left out.", where, len(unused))
    return renamed
