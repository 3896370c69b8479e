"""Checkpoints of other libraries, opened: tensors, and what they say of themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import ConversionError, StorageError
from . import hub, strict_json
from .atomic import open_ordinary

#: What training loops put in front of every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, the config that came with them, and where they are from."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    where: str = "the checkpoint"


def open_checkpoint(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Read a file, a folder, a repository, a state dict or a module.

    Pickles are opened with ``weights_only=True`` only.

    Raises:
        ConversionError: What was found holds no tensors.
        StorageError: It cannot be found or read.
    """
    if isinstance(source, nn.Module):
        config = getattr(source, "config", None)
        kind = type(source).__name__
        return Checkpoint(
            source.state_dict(),
            {"_model_class": kind, **(config if isinstance(config, Mapping) else {})},
            f"the {kind}",
        )
    if isinstance(source, Mapping):
        return Checkpoint(_tensors(source, "the state dict"), where="the state dict")
    path = Path(source)
    if path.is_file():
        return Checkpoint(_tensors(_load(path), str(path)), where=str(path))
    access = hub.Access(
        revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    files = hub.find_files(source, access)
    return Checkpoint(
        _tensors(_load(files.weights), str(files.weights)), _config(files.config), os.fspath(source)
    )


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StorageError(f"There is no {path}.") from error
    except SafetensorError as error:
        raise StorageError(f"{path} is damaged, or no safetensors file: {error}.") from error
    except Exception as error:
        # Whatever unpickling raises: a damaged file, or objects other than tensors.
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StorageError(
            f"{path} could not be opened with weights_only=True: {first} Save the model's "
            "state_dict() alone, and convert that."
        ) from error


def _tensors(loaded: Any, where: str) -> dict[str, Tensor]:
    """The state dict in what was loaded, without what training loops wrap around it."""
    for key in ("state_dict", "model_state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ConversionError(f"{where} holds no tensors, but {type(loaded).__name__}.")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConversionError(
                f"{where} is no state dict: {name!r} is {type(value).__name__}, not a tensor."
            )
    tensors: dict[str, Tensor] = dict(loaded)
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _config(path: Path) -> dict[str, Any]:
    """The config beside the weights, or nothing where there is none."""
    try:
        with open_ordinary(path) as file:
            return strict_json.parse(file.read(_MAX_CONFIG_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
