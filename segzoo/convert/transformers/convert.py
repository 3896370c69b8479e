"""From transformers, with its weights: what its config says that tensors do not tell is used too.

transformers is not needed. Where it computes in another order (its attention is a fused kernel),
the logits are equal up to rounding.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ... import checks
from ...architectures.base import SegmentationModel, create_model
from ...errors import ConversionError, StorageError
from ...files import strict_json
from ...files.atomic import open_ordinary
from ...files.checkpoint import Checkpoint, open_checkpoint
from ...preprocessing import Normalization
from ..keymap import fill, rename
from ..origin import hint
from . import dpt, eomt, segformer, upernet
from .plan import Plan

_log = logging.getLogger(__name__)

#: transformers' class -> a tensor that tells it, and what makes the plan.
KINDS: Mapping[str, tuple[str, Callable[[Mapping[str, Tensor], Mapping[str, Any], str], Plan]]] = {
    "SegformerForSemanticSegmentation": (segformer.TYPICAL, segformer.plan),
    "UperNetForSemanticSegmentation": (upernet.TYPICAL, upernet.plan),
    "DPTForSemanticSegmentation": (dpt.TYPICAL, dpt.plan),
    "EomtForUniversalSegmentation": (eomt.TYPICAL, eomt.plan),
    "EomtDinov3ForUniversalSegmentation": (eomt.TYPICAL_DINOV3, eomt.plan_dinov3),
}
_CONFIG, _PICKLE, _PIXELS = "config.json", "pytorch_model.bin", "preprocessor_config.json"
_WEIGHTS = "model.safetensors"
_MOST_BYTES = 2**20


def from_transformers(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> SegmentationModel:
    """A segmentation model of transformers as one of ours.

    ``SegformerForSemanticSegmentation`` (MiT-B0 to B5), ``UperNetForSemanticSegmentation`` (on
    ConvNeXt and Swin), ``DPTForSemanticSegmentation`` (on a plain vision transformer),
    ``EomtForUniversalSegmentation`` and ``EomtDinov3ForUniversalSegmentation``.
    transformers gives logits at a quarter or all of the image's size; those here have the image's,
    as its ``post_process_semantic_segmentation`` makes them; what an EoMT has before that is had by
    ``model.forward_queries``. Auxiliary heads, which serve its
    training only, are left out, and the log says so.

    Args:
        source: A folder or ``"user/name"`` on the Hub that ``save_pretrained`` wrote, a checkpoint
            file (``model.safetensors``, or ``pytorch_model.bin``, which is opened with
            ``weights_only=True``) with its ``config.json`` beside it, a state dict, or the model.
        config: What ``config.json`` says; goes before what the source brings with it.
        class_names: One name for each class; None for the config's ``id2label``.
        revision: Branch, tag or commit of a repository.
        token: Access token for a private repository.
        cache_dir: Where downloads are kept; None for the Hub's own cache.
        local_files_only: Do not touch the network.

    Returns:
        The model, in eval mode.

    Raises:
        ConversionError: It is no such model, or cannot be brought over; the message says why.
        StorageError: The source cannot be found or read.
    """
    if isinstance(source, nn.Module) and hasattr(source, "save_pretrained"):
        # What is in memory has other names than files in some versions; transformers knows them.
        with tempfile.TemporaryDirectory() as folder:
            save: Any = source.save_pretrained
            save(folder)
            return from_transformers(folder, config, class_names=class_names)
    checkpoint = _opened(
        source,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    given = {**checkpoint.config, **(config or {})}
    tensors, where = checkpoint.tensors, checkpoint.where
    plan = _plan(tensors, given, where)
    arguments = dict(plan.arguments)
    arguments["class_names"] = class_names or _names(given, arguments["classes"])
    if arguments["in_channels"] == 3:
        mean, std = _pixels(source) or plan.mean_std
        arguments["normalization"] = Normalization(mean, std)
    model = create_model(plan.architecture, plan.encoder, **arguments)
    used = {name: item for name, item in plan.tensors.items() if not re.search(plan.unused, name)}
    left = len(plan.tensors) - len(used)
    if left:
        _log.info("%s: %d tensors that the logits do not need were left out.", where, left)
    fill(model, rename(used, plan.rules), source=where)
    return model.eval()


def _opened(source: Any, **access: Any) -> Checkpoint:
    """Tensors and config; of a file the config that lies beside it."""
    if isinstance(source, (nn.Module, Mapping)):
        return open_checkpoint(source)
    path = Path(source)
    if path.is_dir() and not (path / _WEIGHTS).exists() and (path / _PICKLE).exists():
        path = path / _PICKLE
    if not path.is_file():
        return open_checkpoint(source, **access)
    found = open_checkpoint(path)
    return Checkpoint(found.tensors, _read(path.parent / _CONFIG), found.where)


def _read(path: Path) -> dict[str, Any]:
    """A file of JSON, or nothing where there is none."""
    try:
        with open_ordinary(path) as file:
            return strict_json.parse(file.read(_MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error


def _plan(tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> Plan:
    """By the class that the config names, else by the tensors."""
    named = config.get("architectures")
    kind = named[0] if isinstance(named, (list, tuple)) and len(named) == 1 else None
    if kind is None:
        kind = next((name for name, (tensor, _) in KINDS.items() if tensor in tensors), None)
    if kind is None or kind not in KINDS:
        what = f"of the class {kind!r}" if kind else "no model of transformers that is known here"
        raise ConversionError(
            f"{where} is {what}; what can be brought over: {', '.join(KINDS)}."
            f"{hint(tensors)} It has: {checks.shown(sorted(tensors))}."
        )
    return KINDS[kind][1](tensors, config, where)


def _names(config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """The names of the classes, unless they are transformers' place holders."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping):
        return None
    names = tuple(labels.get(str(i), labels.get(i)) for i in range(classes))
    if not all(isinstance(name, str) and name for name in names):
        return None
    return None if names == tuple(f"LABEL_{i}" for i in range(classes)) else names


def _pixels(source: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that lie beside the weights, if they do."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    found = _read((path if path.is_dir() else path.parent) / _PIXELS)
    mean, std = found.get("image_mean"), found.get("image_std")
    if not (isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == 3):
        return None
    return tuple(mean), tuple(std)
