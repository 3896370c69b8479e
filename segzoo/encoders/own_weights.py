"""A timm backbone with weights that were trained elsewhere: all of them fit, or none is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ..errors import EncoderError, StorageError
from ..files.checkpoint import Checkpoint, open_checkpoint
from ..files.local import is_file
from .probe import build_on_meta

#: What stands before a repository id, as in ``timm.create_model``.
HUB_PREFIX = "hf-hub:"


class Told(NamedTuple):
    """Where weights are, taken apart.

    Attributes:
        place: A file's path, or a repository's id.
        weights: Which set of weights in it, or None where nothing is said.
        remote: Whether it is a repository.
    """

    place: str
    weights: str | None
    remote: bool


def told(source: str) -> Told:
    """What a person says of weights that were trained elsewhere.

    >>> told("hf-hub:user/name#model_ema")
    Told(place='user/name', weights='model_ema', remote=True)
    """
    remote = source.startswith(HUB_PREFIX)
    place = source.removeprefix(HUB_PREFIX)
    if "#" not in place or (not remote and is_file(place)):
        return Told(place, None, remote)
    place, _, weights = place.rpartition("#")
    return Told(place, weights, remote)


def build_with_weights(
    name: str, source: str, in_channels: int, options: Mapping[str, Any]
) -> nn.Module:
    """The feature extractor of ``name`` with the weights of a checkpoint of the whole model.

    timm renames older checkpoints and adapts the first convolution, as it does with its own
    weights; the classifier's weights are left out.

    Args:
        name: timm's name.
        source: A file that holds a state dict, or ``"hf-hub:user/name"``; ``"#model_ema"`` behind
            it says which, where there are several.
        in_channels: Bands of the image.
        options: For ``timm.create_model``.

    Raises:
        StorageError: The checkpoint cannot be found or read.
        EncoderError: It belongs to another architecture.
    """
    import timm

    place, weights, remote = told(source)
    if not remote and not is_file(place):
        raise StorageError(
            f"pretrained={source!r} is no file. Give True for timm's weights, the path of a "
            f"checkpoint, or '{HUB_PREFIX}user/name'."
        )
    whole = _names(name, 1)
    classifier = whole - _names(name, 0)
    checkpoint = open_checkpoint(
        place if remote else Path(place),
        typical=_typical(whole - classifier),
        weights=weights,
        choice="its name behind the file's: pretrained='FILE#NAME' with NAME {}",
        with_config=False,
    )
    found = [key for key in checkpoint.tensors if key not in classifier]
    if not found:
        raise EncoderError(
            f"{checkpoint.where} does not fit {name!r}: it holds the weights of a classifier only "
            f"({', '.join(sorted(checkpoint.tensors)[:4])}). Give a checkpoint of the whole model."
        )
    _check_types(checkpoint, found, name)
    try:
        # Without classes on both sides timm loads strictly.
        backbone: nn.Module = timm.create_model(
            name,
            pretrained=True,
            features_only=True,
            in_chans=in_channels,
            pretrained_cfg_overlay={
                "state_dict": checkpoint.read(found),
                "num_classes": 0,
                "custom_load": False,
            },
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
    return _names(name, 1) - _names(name, 0)


def _names(name: str, classes: int) -> set[str]:
    """The names of an architecture's weights, with that many classes."""
    import timm

    model: nn.Module = build_on_meta(lambda: timm.create_model(name, num_classes=classes))
    return set(model.state_dict())


def _typical(names: Collection[str]) -> list[str]:
    """The name of a weight that is the end of no other's: by it a model is found below a prefix."""
    inner = {name.split(".", i)[i] for name in names for i in range(1, name.count(".") + 1)}
    alone = (name for name in names if name not in inner and name.endswith(".weight"))
    return sorted(alone, key=len, reverse=True)[:1]


def _check_types(checkpoint: Checkpoint, names: Collection[str], name: str) -> None:
    """Refuse what a copy would change without a word: a complex weight would lose a part.

    Raises:
        EncoderError: A tensor that is neither floating point nor a count or an index.
    """
    for key in names:
        dtype = checkpoint.tensors[key].dtype
        weight = key.endswith((".weight", ".bias", ".running_mean", ".running_var"))
        if dtype.is_complex or (weight and not dtype.is_floating_point):
            raise EncoderError(
                f"{checkpoint.where} does not fit {name!r}: {key} is of {dtype}, expected floating "
                "point."
            )
