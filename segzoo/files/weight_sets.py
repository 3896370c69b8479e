"""Which of a checkpoint's tensors are the model: the one prefix below which a whole one lies.

What training loops save is a tree: dicts of dicts (``state_dict``, ``model``, ``ema``,
``optimizer``), and in each the names of the modules around the model (``module.``, ``net.``,
``_orig_mod.``). Dicts and modules are one path here, ``ema.module.decoder.conv.weight``, and a
model is found by a tensor that every one of its kind has: what stands before the name of that
tensor is the prefix, whatever people called it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any

import torch

from .. import checks
from ..errors import ConversionError, nearest
from .stored import Stored
from .weight_tree import Tree, tree_of

_log = logging.getLogger(__name__)

#: How a set of weights is chosen in a converter.
CHOICE = "weights={}, or on the command line by --weights"
#: What makes tensors that are not plain: pickles call it by these names.
_TENSOR_LIKE = ("torch._utils._rebuild", "torch._tensor._rebuild", "torch.sparse")
#: Averages, teachers and students: a few.
_MAX_SETS = 64
#: Where no model is recognised: what state dicts are kept under ...
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params"),
    *("ema", "model_ema", "state_dict_ema", "ema_state_dict", "teacher", "student", "module"),
)
#: ... and what training loops put in front of every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


@dataclass(frozen=True)
class Found:
    """A model in what was loaded.

    Attributes:
        path: The names that lead to it, joined by dots; empty where it is all there is.
        tensors: Its tensors by their names in the model.
    """

    path: str
    tensors: dict[str, Stored]


def model_tensors(
    loaded: Any,
    where: str,
    typical: Collection[str],
    weights: str | None = None,
    *,
    choice: str = CHOICE,
) -> Found:
    """The tensors of the one model in what was loaded, by their names in the model.

    What lies beside it in the same state dict is left out, and the log names it.

    Args:
        loaded: Containers and tensors, as a file or a person gives them.
        where: For messages.
        typical: Names of tensors, one of which every model of the kind that is wanted has.
        weights: Which set of weights to take, where there are several: a part of its path.
        choice: How a set is chosen, for the message: a format for its name.

    Raises:
        ConversionError: There are no tensors, there are several sets, or none of that name.
    """
    tree = tree_of(loaded, where)
    if not tree.tensors:
        held = f"objects of {', '.join(sorted(tree.objects)[:3])}" if tree.objects else ""
        kind = "nothing" if loaded in ({}, [], ()) else type(loaded).__name__
        raise ConversionError(
            f"{where} holds no tensors, but {held or kind}. Where it was made, save the weights by "
            "torch.save(model.state_dict(), 'weights.pth')."
        )
    if weights is not None:
        checks.text("weights", weights)
    found = _prefixes(tree.tensors, typical)
    if len(found) > _MAX_SETS:
        raise ConversionError(f"{where} holds {len(found)} models, more than a checkpoint can.")
    if weights is None:
        found = _distinct(found, tree)
    found = found or _guessed(tree, weights)
    prefix = _chosen(found, where, weights, choice)
    inside = {
        name.removeprefix(prefix): item
        for name, item in tree.tensors.items()
        if name.startswith(prefix)
    }
    if not _prefixes(inside, typical):
        prefix, inside = _stripped(prefix, inside)
    _check_whole(tree, prefix, where)
    _tell_left_out(tree, prefix, where)
    return Found(prefix.rstrip("."), _with_counters(inside))


def _chosen(found: list[str], where: str, weights: str | None, choice: str) -> str:
    """One of several prefixes: the only one, the one around all others, or the one asked for."""
    labels = [prefix.rstrip(".") for prefix in found]
    shown = ", ".join(checks.shown(label) for label in labels[:8])
    if weights is not None:
        exact = [prefix for prefix in found if prefix == f"{weights}."]
        fitting = exact or [prefix for prefix in found if _is_part(weights, prefix)]
        if len(fitting) == 1:
            return fitting[0]
        raise ConversionError(
            f"{where} has {'several sets' if fitting else 'no set'} of weights "
            f"{checks.shown(weights)}.{nearest(weights, labels)} It has: {shown}."
        )
    around = [prefix for prefix in found if all(other.startswith(prefix) for other in found)]
    if around:
        return around[0]
    raise ConversionError(
        f"{where} holds {len(found)} sets of weights: {shown}. Say which by "
        f"{choice.format(checks.shown(labels[-1]))}."
    )


def _prefixes(names: Collection[str], typical: Collection[str]) -> list[str]:
    """What stands before the name of a typical tensor, each once, in the order of the names."""
    endings = tuple(typical)
    found: dict[str, None] = {}
    for name in names:
        if endings and name.endswith(endings):
            for ending in endings:
                before = name.removesuffix(ending)
                if before != name and (not before or before.endswith(".")):
                    found[before] = None
    return list(found)


def _distinct(prefixes: list[str], tree: Tree) -> list[str]:
    """Without those below which the very same tensors lie: a model that is held under two names."""
    kept: dict[Hashable, str] = {}
    for prefix in prefixes:
        inside = frozenset(
            (name.removeprefix(prefix), item.identity)
            for name, item in tree.tensors.items()
            if name.startswith(prefix)
        )
        kept.setdefault(inside, prefix)
    return list(kept.values())


def _guessed(tree: Tree, weights: str | None) -> list[str]:
    """Where state dicts lie, when no tensor tells: under usual names, or the one asked for."""
    paths = [f"{name}." for name in _WRAPPERS]
    if weights is not None:
        paths = [path for path in tree.dicts if _is_part(weights, path)][:_MAX_SETS]
    inside = (path for path in paths if path in tree.dicts)
    return [path for path in inside if any(name.startswith(path) for name in tree.tensors)] or [""]


def _is_part(weights: str, prefix: str) -> bool:
    """Whether names asked for are a part of a path."""
    return f".{weights}." in f".{prefix}"


def _stripped(prefix: str, tensors: dict[str, Stored]) -> tuple[str, dict[str, Stored]]:
    """Without what training loops put in front of every name."""
    while found := next((p for p in _PREFIXES if all(n.startswith(p) for n in tensors)), None):
        if found in tensors:
            break
        prefix += found
        tensors = {name.removeprefix(found): item for name, item in tensors.items()}
    return prefix, tensors


def _check_whole(tree: Tree, prefix: str, where: str) -> None:
    """Refuse tensors in the model that could not be read: quantised, sparse, of another device."""
    for name, what in tree.others.items():
        if name.startswith(prefix) and what.startswith(_TENSOR_LIKE):
            raise ConversionError(
                f"{where}: {checks.shown(name)} is no plain tensor, but what {what} makes. Save "
                "dense tensors of floating point: a quantised or sparse model cannot be brought "
                "over exactly."
            )


def _tell_left_out(tree: Tree, prefix: str, where: str) -> None:
    """Name in the log what lies beside the model in the dict in which it lies."""
    home = max((path for path in tree.dicts if prefix.startswith(path)), key=len, default="")
    beside = [
        name
        for group in (tree.tensors, tree.others)
        for name in group
        if name.startswith(home) and (not name.startswith(prefix) or group is tree.others)
    ]
    if beside:
        names = ", ".join(checks.shown(name.removeprefix(home)) for name in beside[:5])
        _log.warning(
            "%s: left out what lies beside the model: %s%s.",
            where,
            names,
            f" and {len(beside) - 5} more" if len(beside) > 5 else "",
        )


def _with_counters(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """With the counters of batch normalisation, which torch had not before 0.4.1, at zero.

    So does torch when it loads such a file.
    """
    if any(name.endswith("num_batches_tracked") for name in tensors):
        return tensors
    result: dict[str, Stored] = {}
    for name, item in tensors.items():
        result[name] = item
        if name.endswith(".running_var"):
            counter = f"{name.removesuffix('running_var')}num_batches_tracked"
            result[counter] = Stored(torch.int64, (), _zero)
    return result


def _zero() -> torch.Tensor:
    return torch.zeros((), dtype=torch.int64, device="cpu")
