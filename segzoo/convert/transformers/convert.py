"""From transformers, with its weights: what its config says that tensors do not tell is used too.

transformers is not needed. Where it computes in another order (its attention is a fused kernel),
the logits are equal up to rounding.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ... import checks
from ...architectures.base import SegmentationModel, create_model
from ...errors import ArgumentError, ConversionError, StorageError
from ...files.checkpoint import Checkpoint, open_checkpoint, read_json
from ...preprocessing import Normalization
from ..keymap import built, rename
from ..origin import hint
from ..refusing import check_config, refuses_oddities
from . import dpt, eomt, segformer, upernet
from .plan import Plan

_log = logging.getLogger(__name__)

PlanOf = Callable[[Mapping[str, Tensor], Mapping[str, Any], str], Plan]
#: transformers' class -> a tensor that tells it, and what makes the plan.
KINDS: Mapping[str, tuple[str, PlanOf]] = {
    "SegformerForSemanticSegmentation": (segformer.TYPICAL, segformer.plan),
    "UperNetForSemanticSegmentation": (upernet.TYPICAL, upernet.plan),
    "DPTForSemanticSegmentation": (dpt.TYPICAL, dpt.plan),
    "EomtForUniversalSegmentation": (eomt.TYPICAL, eomt.plan),
    "EomtDinov3ForUniversalSegmentation": (eomt.TYPICAL_DINOV3, eomt.plan_dinov3),
}
_PIXELS = "preprocessor_config.json"


@refuses_oddities
def from_transformers(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    weights: str | None = None,
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
            file (``model.safetensors``, ``pytorch_model.bin``, or of a training loop, nothing of
            which is run) with its ``config.json`` beside it, a state dict, or the model.
        config: What ``config.json`` says; goes before what the source brings with it.
        class_names: One name for each class; None for the config's ``id2label``.
        weights: Which set of weights to take, where the file has several: ``"model_ema"``.
        revision: Branch, tag or commit of a repository.
        token: Access token for a private repository.
        cache_dir: Where downloads are kept; None for the Hub's own cache.
        local_files_only: Do not touch the network.

    Returns:
        The model, in eval mode.

    Raises:
        ConversionError: It is no such model, or cannot be brought over; the message says why.
        StorageError: The source cannot be found or read.
        ArgumentError: ``config`` is no mapping, or the names are not one for each class.
    """
    check_config(config)
    with _as_files(source) as (place, where):
        checkpoint = open_checkpoint(
            place,
            typical=[typical for typical, _ in KINDS.values()],
            weights=weights,
            where=where,
            beside=(_PIXELS,),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return _converted(checkpoint, config or {}, class_names)


@contextmanager
def _as_files(source: Any) -> Iterator[tuple[Any, str | None]]:
    """The source, and what to call it; of a model of transformers the files that it makes.

    What is in memory has other names than files in some versions; transformers knows them.

    Raises:
        StorageError: There is no room for the files.
    """
    if not isinstance(source, nn.Module) or not hasattr(source, "save_pretrained"):
        yield source, None
        return
    where = f"the {type(source).__name__}"
    with tempfile.TemporaryDirectory() as folder:
        save: Any = source.save_pretrained
        try:
            save(folder)
        except OSError as error:
            raise StorageError(
                f"{where} was to be written to a temporary folder first, and could not be: {error}."
                " Free some space, or set TMPDIR to another folder."
            ) from error
        yield folder, where


def _converted(
    checkpoint: Checkpoint, config: Mapping[str, Any], class_names: Sequence[str] | None
) -> SegmentationModel:
    given = {**checkpoint.config, **config}
    tensors, where = checkpoint.tensors, checkpoint.where
    kind = _kind(tensors, given, where)
    plan = kind(tensors, given, where)
    arguments = dict(plan.arguments)
    names = _names(given, arguments["classes"]) if class_names is None else class_names
    arguments["class_names"] = names
    if arguments["in_channels"] == 3:
        arguments["normalization"] = _pixels(checkpoint.folder, plan.mean_std)

    def make() -> SegmentationModel:
        return create_model(plan.architecture, plan.encoder, **arguments)

    notes: dict[str, None] = {}

    def place(_: SegmentationModel, read: Mapping[str, Tensor]) -> dict[str, Tensor]:
        placed = plan if read is tensors else kind(read, given, where)
        notes.update(dict.fromkeys(placed.notes))
        whole = placed.tensors.items()
        return rename({n: item for n, item in whole if not re.search(plan.unused, n)}, plan.rules)

    left = sum(bool(re.search(plan.unused, name)) for name in plan.tensors)
    if left:
        _log.info("%s: %d tensors that the logits do not need were left out.", where, left)
    model = built(make, place, checkpoint)
    for note in notes:
        _log.warning("%s %s", where, note)
    return model.eval()


def _kind(tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> PlanOf:
    """What makes the plan: by the class that the config names, else by the tensors."""
    named = config.get("architectures")
    kind = named[0] if isinstance(named, (list, tuple)) and len(named) == 1 else None
    if not isinstance(kind, str):
        kind = None
    if kind is None:
        kind = next((name for name, (tensor, _) in KINDS.items() if tensor in tensors), None)
    if kind is None or kind not in KINDS:
        what = (
            f"of the class {checks.shown(kind)}"
            if kind
            else "no model of transformers that is known here"
        )
        raise ConversionError(
            f"{where} is {what}; what can be brought over: {', '.join(KINDS)}."
            f"{hint(tensors)} It has: {checks.shown(sorted(tensors))}."
        )
    return KINDS[kind][1]


def _names(config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """The names of the classes, unless they are transformers' place holders."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping):
        return None
    names = tuple(labels.get(str(i), labels.get(i)) for i in range(classes))
    if not all(isinstance(name, str) and name for name in names):
        return None
    return None if names == tuple(f"LABEL_{i}" for i in range(classes)) else names


def _pixels(
    folder: Path | None, default: tuple[tuple[float, ...], tuple[float, ...]]
) -> Normalization:
    """What becomes of the pixels, by the image processor that lies beside the weights, if it does.

    transformers multiplies the values of a file by ``rescale_factor``, here they are scaled to 0..1
    before anything else: the statistics are for those.

    Raises:
        ConversionError: It says what no picture can be treated with.
    """
    found = {} if folder is None else read_json(folder / _PIXELS)
    mean, std = found.get("image_mean"), found.get("image_std")
    if not (isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == 3):
        mean, std = map(list, default)
    if not found.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    factor = found.get("rescale_factor") if found.get("do_rescale", True) else 1.0
    try:
        # 1 / 255, and whatever is that but for the rounding of its digits, changes nothing.
        scale = 1.0 if factor is None else 255 * checks.positive("rescale_factor", factor)
        plain = Normalization(tuple(mean), tuple(std))
        if math.isclose(scale, 1.0, rel_tol=1e-6):
            return plain
        return Normalization(*(tuple(v / scale for v in item) for item in (plain.mean, plain.std)))
    except ArgumentError as error:
        raise ConversionError(f"{_PIXELS} beside the weights is not valid: {error}") from error
