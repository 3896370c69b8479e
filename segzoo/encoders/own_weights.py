"""A timm backbone with weights that were trained elsewhere: all of them fit, or none is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import EncoderError, StorageError
from ..files.checkpoint import open_checkpoint
from .probe import build_on_meta

#: What stands before a repository id, as in ``timm.create_model``.
HUB_PREFIX = "hf-hub:"


def build_with_weights(
    name: str, source: str, in_channels: int, options: Mapping[str, Any]
) -> nn.Module:
    """The feature extractor of ``name`` with the weights of a checkpoint of the whole model.

    timm renames older checkpoints and adapts the first convolution, as it does with its own
    weights; the classifier's weights are left out.

    Args:
        name: timm's name.
        source: A file that holds a state dict, or ``"hf-hub:user/name"``.
        in_channels: Bands of the image.
        options: For ``timm.create_model``.

    Raises:
        StorageError: The checkpoint cannot be found or read.
        EncoderError: It belongs to another architecture.
    """
    import timm

    if not source.startswith(HUB_PREFIX) and not Path(source).is_file():
        raise StorageError(
            f"pretrained={source!r} is no file. Give True for timm's weights, the path of a "
            f"checkpoint, or '{HUB_PREFIX}user/name'."
        )
    checkpoint = open_checkpoint(source.removeprefix(HUB_PREFIX))
    classifier = classifier_keys(name)
    tensors = {key: item for key, item in checkpoint.tensors.items() if key not in classifier}
    try:
        # Without classes on both sides timm loads strictly.
        backbone: nn.Module = timm.create_model(
            name,
            pretrained=True,
            features_only=True,
            in_chans=in_channels,
            pretrained_cfg_overlay={"state_dict": tensors, "num_classes": 0, "custom_load": False},
            **options,
        )
    except (RuntimeError, KeyError) as error:
        first = str(error).strip()[:300]
        raise EncoderError(f"{checkpoint.where} does not fit {name!r}: {first}") from error
    for record in (backbone.pretrained_cfg, backbone.default_cfg):
        if isinstance(record, dict):
            record.pop("state_dict", None)  # it would be kept in memory
    return backbone


def classifier_keys(name: str) -> set[str]:
    """The names of the weights that an architecture has with classes and lacks without any.

    More than the layers that timm calls the classifier: some have a normalisation before them.
    """
    import timm

    def keys(classes: int) -> set[str]:
        model: nn.Module = build_on_meta(lambda: timm.create_model(name, num_classes=classes))
        return set(model.state_dict())

    return keys(1) - keys(0)
