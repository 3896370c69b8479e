"""What a training needs to go on where it was, in one file that is there whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import StorageError, TrainingError
from ..files.atomic import open_ordinary, replacing

#: Raised when what is in the file changes in a way that older versions cannot read.
FORMAT = 1


@dataclass(frozen=True)
class Position:
    """A place in a training, between two steps.

    Attributes:
        epoch: Epochs that are behind, with those of a frozen encoder.
        batch: Batches of the next epoch that are behind.
        step: Steps of the optimiser that are behind.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state in one step: it is on the disk, or the state before still is.

    Args:
        path: The file.
        state: Tensors, numbers, texts, lists and dicts.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        with replacing(path) as temporary:
            torch.save({"format": FORMAT, **state}, temporary)
    except (OSError, RuntimeError) as error:  # torch raises the latter for a full disk
        reason = str(error).partition("\n")[0]
        raise StorageError(
            f"The training's state could not be written to {path}: {reason}. The state before it "
            "still stands. Free some space and start the same training again: it goes on there."
        ) from error


def read_state(path: Path) -> dict[str, Any] | None:
    """The state in a file, on the CPU; None where there is no file.

    Raises:
        StorageError: It cannot be read, or is no state.
    """
    try:
        with open_ordinary(path) as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever unpickling raises
        reason = str(error).partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's words advise to run what is in it
            reason = "it is damaged, or holds objects that no state has"
        raise StorageError(
            f"{path} could not be read as the state of a training: {reason}. Restore it, or begin "
            "anew with restart=True (--restart)."
        ) from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise StorageError(
            f"{path} is no state that this version can go on with (format {found!r}, expected "
            f"{FORMAT}). Use the version that wrote it, or begin anew: restart=True (--restart)."
        )
    return dict(state)


def check_same(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    where: Path,
    *,
    absent: Mapping[str, Any] | None = None,
    passed: Sequence[str] = (),
) -> None:
    """Raise where a training would not be the one that a folder holds.

    Args:
        then: What it was begun with: recipe, data, model, processes ...
        now: The same of this call.
        where: The folder, for the message.
        absent: What stands for values that ``then`` lacks: an older version did not know them.
        passed: Names that are not compared, with all below them: ``data.source``.

    Raises:
        TrainingError: A difference; the message has every one of them.
    """
    before, after = {**_flat(absent or {}), **_flat(then)}, _flat(now)
    lines = [
        f"{name} was {before.get(name)!r}, is {after.get(name)!r}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
        and not any(f"{name}.".startswith(f"{place}.") for place in passed)
    ]
    if lines:
        shown = "; ".join(lines[:12]) + (f"; and {len(lines) - 12} more" if lines[12:] else "")
        raise TrainingError(
            f"{where} holds another training: {shown}. Start it with what it was begun with, "
            "choose another folder, or begin anew in this one with restart=True (--restart)."
        )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """``{"recipe": {"epochs": 3}}`` as ``{"recipe.epochs": 3}``; lists are values."""
    if isinstance(value, Mapping):
        return {
            key: item
            for inner, entry in value.items()
            for key, item in _flat(entry, f"{name}.{inner}" if name else str(inner)).items()
        }
    return {name: list(value) if isinstance(value, tuple) else value}


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the random numbers that dropout and drop path take from torch."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def set_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Go on with the random numbers of :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
