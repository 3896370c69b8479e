"""Names of weights from one library to another: nothing left over, nothing left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from .. import checks
from ..encoders import build_on_meta
from ..errors import ConversionError
from ..files.checkpoint import Checkpoint
from ..nn.unsaved import built_for_buffers, convert_like, set_buffers, unsaved_buffers

Value = TypeVar("Value")
Model = TypeVar("Model", bound=nn.Module)
#: A regular expression that the whole name must match, and what becomes of the name.
Rule = tuple[str, str]
#: What a model may be of, whole.
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def rename(source: Mapping[str, Value], rules: Iterable[Rule]) -> dict[str, Value]:
    """Rename every tensor by all rules that fit it, one after the other.

    A rule is a regular expression and its replacement, as for ``re.sub``, and is applied to the
    name that the rules before it made.

    Raises:
        ConversionError: Two tensors would get one name.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    result: dict[str, Value] = {}
    for name, tensor in source.items():
        target = name
        for pattern, replacement in compiled:
            target = pattern.sub(replacement, target)
        if target in result:
            raise ConversionError(f"Two tensors of the checkpoint would both become {target!r}.")
        result[target] = tensor
    return result


def built(
    make: Callable[[], Model],
    place: Callable[[Model, Mapping[str, Tensor]], Mapping[str, Tensor]],
    checkpoint: Checkpoint,
    *,
    source: str = "",
) -> Model:
    """A model with the tensors of a checkpoint, exactly: all are used, every weight is filled.

    The model is made on the meta device and compared first, so that a file which does not fit costs
    no memory; one that fits is read once, into the tensors that the model keeps.

    Args:
        make: Makes the model, without weights that have to be fetched.
        place: From the checkpoint's tensors to the model's, under the model's names; also called
            with tensors on the meta device. What it leaves out is not used.
        checkpoint: What to take tensors from.
        source: Where they come from, for messages; the checkpoint's own word if left.

    Returns:
        The model, in the floating point type of the tensors.

    Raises:
        ConversionError: Names, shapes or types differ, or values are not finite.
        StorageError: The file cannot be read.
    """
    model = build_on_meta(make)
    placed = place(model, checkpoint.tensors)
    check_fits(model, placed, source=source or checkpoint.where)
    for dtype in {t.dtype for t in placed.values() if t.is_floating_point()}:  # one at most
        model.to(dtype)
    _compute_buffers(model, make)
    model.load_state_dict(dict(place(model, checkpoint.read())), assign=True)
    return model


def check_fits(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Compare names, shapes and types with a model's.

    Raises:
        ConversionError: They differ; the message names what does.
    """
    expected, kind = model.state_dict(), type(model).__name__
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise ConversionError(
            f"{source} does not fit {kind}: it lacks {len(missing)} tensors {_some(missing)}, and "
            f"has {len(extra)} that have no place {_some(extra)}."
        )
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            raise ConversionError(
                f"{source} does not fit {kind}: {name} has the shape {tuple(tensor.shape)}, "
                f"expected {tuple(wanted.shape)}."
            )
        same = tensor.dtype == wanted.dtype
        if not same and not (wanted.is_floating_point() and tensor.dtype in _FLOATS):
            fits = "floating point of 16 bits or more"
            raise ConversionError(
                f"{source} does not fit {kind}: {name} is of {tensor.dtype}, expected "
                f"{fits if wanted.is_floating_point() else wanted.dtype}."
            )
    floating = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(floating) > 1:
        raise ConversionError(
            f"{source} mixes the types {sorted(map(str, floating))}; convert it to one of them "
            "first."
        )


def _some(names: list[str]) -> str:
    """The first few names, each cut to a readable length."""
    return checks.shown([name[:100] for name in names[:3]])


def _compute_buffers(model: nn.Module, make: Callable[[], nn.Module]) -> None:
    """Give a model on the meta device the tables that are computed, not saved, from a real one."""
    if not unsaved_buffers(model):
        return
    real = built_for_buffers(make)
    convert_like(real, model.state_dict())
    set_buffers(model, unsaved_buffers(real))
