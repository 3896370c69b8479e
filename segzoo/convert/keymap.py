"""Names of weights from one library to another: nothing left over, nothing left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import ConversionError

Value = TypeVar("Value")
#: A regular expression that the whole name must match, and what becomes of the name.
Rule = tuple[str, str]


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


def fill(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a model, exactly: every tensor is used, every weight is filled.

    The model is converted to the floating point type of the tensors.

    Args:
        source: Where the tensors come from, for the message.

    Raises:
        ConversionError: Names, shapes or types differ; nothing was changed then.
    """
    expected = model.state_dict()
    missing, extra = (
        sorted(expected.keys() - tensors.keys()),
        sorted(tensors.keys() - expected.keys()),
    )
    if missing or extra:
        raise ConversionError(
            f"{source} does not fit {type(model).__name__}: it lacks {len(missing)} tensors "
            f"{missing[:3]}, and has {len(extra)} that have no place {extra[:3]}."
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ConversionError(
                f"{source} does not fit {type(model).__name__}: {name} has the shape "
                f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}."
            )
    floating = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(floating) > 1:
        raise ConversionError(
            f"{source} mixes the types {sorted(map(str, floating))}; convert it to one of them "
            "first."
        )
    for dtype in floating:
        model.to(dtype)
    expected = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)
