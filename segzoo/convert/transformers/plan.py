"""What a checkpoint of transformers becomes: a value, made for each kind of model in its file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ... import checks
from ...errors import ConversionError
from ..keymap import Rule


@dataclass(frozen=True)
class Plan:
    """How to build a model, and what becomes of the checkpoint's tensors.

    Attributes:
        architecture: Ours.
        encoder: Its name.
        arguments: Of the architecture.
        tensors: Those of the checkpoint, queries, keys and values joined as they are here.
        rules: The names that they have then -> ours.
        unused: Tensors that transformers does not need for its logits, a regular expression for
            their names in the checkpoint.
        mean_std: What the pixels are normalised with, where the checkpoint does not say.
        notes: What whoever converts it should know, for the log. Those on values are there only
            where the tensors have some: a plan is made on the meta device first.
    """

    architecture: str
    encoder: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    rules: tuple[Rule, ...]
    unused: str = "$^"
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] = field(
        default=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    notes: tuple[str, ...] = ()


def joined(
    tensors: Mapping[str, Tensor], pattern: str, parts: Sequence[str], name: str
) -> dict[str, Tensor]:
    """Layers whose weights are several here joined into one, row by row.

    Args:
        tensors: By name.
        pattern: A regular expression with one group, ``(PART)`` in place of the layers' own names.
        parts: Those names, in the order in which they are joined.
        name: The layer's name, put in place of the group.
    """
    found = re.compile(pattern.replace("(PART)", f"({'|'.join(parts)})"))
    result: dict[str, Tensor] = {}
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = found.search(key)
        if match is None:
            result[key] = value
        else:
            target = f"{key[: match.start(1)]}{name}{key[match.end(1) :]}"
            groups.setdefault(target, {})[match[1]] = value
    for target, members in groups.items():
        if set(members) != set(parts):
            missing = sorted(set(parts) - set(members))
            raise ConversionError(f"The checkpoint has no {', '.join(missing)} for {target!r}.")
        shapes = [tuple(members[part].shape) for part in parts]
        if not shapes[0] or len({(len(shape), *shape[1:]) for shape in shapes}) > 1:
            raise ConversionError(
                f"The checkpoint has {', '.join(parts)} of the shapes {checks.shown(shapes)}, "
                f"which cannot be joined to {target!r}."
            )
        result[target] = torch.cat([members[part] for part in parts])
    return result


def needed(config: Mapping[str, Any], key: str, where: str) -> Any:
    """A value that the config has to have.

    Raises:
        ConversionError: It has not.
    """
    if config.get(key) is None:
        raise ConversionError(
            f"{where}: its config does not say {key}. Give the folder that save_pretrained wrote, "
            "with its config.json, or config={...} with what it says."
        )
    return config[key]


def only(config: Mapping[str, Any], where: str, **expected: Any) -> None:
    """Refuse what a config says otherwise than it has to be.

    Raises:
        ConversionError: A value that cannot be brought over.
    """
    for key, value in expected.items():
        given = config.get(key, value)
        plain = list(given) if isinstance(given, (list, tuple)) else given
        if plain != (list(value) if isinstance(value, (list, tuple)) else value):
            raise ConversionError(
                f"{where}: the config says {key}={checks.shown(given)}; what can be brought over "
                f"exactly is {value}."
            )


def tensor_of(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    """A tensor that the checkpoint has to have.

    Raises:
        ConversionError: It has not.
    """
    if name not in tensors:
        raise ConversionError(
            f"{where} has not the tensor {name}. It has: {checks.shown(sorted(tensors))}."
        )
    return tensors[name]
