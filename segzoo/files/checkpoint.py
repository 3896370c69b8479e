"""Checkpoints of other libraries, opened: tensors by name, and what they say of themselves.

One way in for every converter, for ``pretrained=`` and for the command line. Nothing in a file is
ever run; of its tensors only names, types and shapes are read at first, to be compared with a
model on the meta device, and values once they are known to fit.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import ConversionError, StorageError
from ..nn.finite import is_finite
from . import hub, strict_json
from .atomic import open_ordinary
from .first_bytes import Kind, kind_of
from .hub import CONFIG, WEIGHTS
from .local import also_not_here, check_may_be_remote, is_file, is_folder, path_of
from .safetensors_tensors import open_safetensors
from .stored import SHARING, SLACK, Stored
from .torch_file import open_legacy, open_torch_zip
from .weight_sets import CHOICE, model_tensors

#: What older versions of smp and transformers save weights in.
PICKLE = "pytorch_model.bin"
_MAX_CONFIG_BYTES = 2**20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one model, the config that came with them, and where they are from.

    Attributes:
        stored: Tensors by name, not read yet.
        config: What lies beside them, as ``config.json`` or as the model's own.
        where: For messages.
        folder: Where their file lies, or None.
    """

    stored: Mapping[str, Stored]
    config: Mapping[str, Any] = field(default_factory=dict)
    where: str = "the checkpoint"
    folder: Path | None = None

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors on the meta device: names, types and shapes, to plan with."""
        return {name: item.on_meta() for name, item in self.stored.items()}

    def read(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """The tensors with their values, dense, on the CPU, each in memory of its own.

        Args:
            names: Which; None for all.

        Raises:
            ConversionError: Some are not finite.
            StorageError: The file is damaged, or was changed meanwhile.
        """
        result = {}
        for name, item in self.stored.items():
            if names is not None and name not in names:
                continue
            tensor = item.read()
            if not is_finite(tensor):
                raise ConversionError(
                    f"{self.where} holds values that are not finite: NaN or infinity in {name!r}. "
                    "A model with them gives useless results: take a checkpoint from before its "
                    "training diverged."
                )
            result[name] = tensor
        return result


def open_checkpoint(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    *,
    typical: Collection[str] = (),
    weights: str | None = None,
    with_config: bool = True,
    choice: str = CHOICE,
    where: str | None = None,
    beside: Collection[str] = (),
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Find the tensors of one model in a file, a folder, a repository, a state dict or a module.

    Args:
        source: What to open. A file is known by its first bytes, not by its name.
        typical: Names of tensors, one of which every model of the kind that is wanted has: by them
            the model is found below whatever is around it.
        weights: Which set of weights to take, where there are several.
        choice: How a set of weights is chosen, for the message: a format for its name.
        where: What messages call the source; None for its path, its name or what it is.
        beside: Other small files that are downloaded along, where a repository has them.
        with_config: Read the ``config.json`` that lies beside a file too.
        revision: Branch, tag or commit of a repository.
        token: Access token for a private repository.
        cache_dir: Where downloads are kept; None for the Hub's own cache.
        local_files_only: Do not touch the network.

    Raises:
        ConversionError: What was found holds no tensors, or several sets of them.
        StorageError: It cannot be found or read.
    """
    if isinstance(source, nn.Module):
        where = where or f"the {type(source).__name__}"
        found = model_tensors(source, where, typical, weights, choice=choice)
        return Checkpoint(found.tensors, _config_of(source, found.path), where)
    if isinstance(source, Mapping):
        where = where or "the state dict"
        found = model_tensors(source, where, typical, weights, choice=choice)
        return Checkpoint(found.tensors, {}, where)
    if not isinstance(source, (str, os.PathLike)):
        raise ConversionError(
            "A checkpoint is a file, a folder, a repository, a state dict or a module; got "
            f"{type(source).__name__}."
        )
    access = hub.Access(
        revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    files = _find(source, access, beside)
    where = where or (str(files.weights) if is_file(source) else os.fspath(source))
    found = model_tensors(_loaded(files.weights), where, typical, weights, choice=choice)
    stored = found.tensors
    _check_size(stored, files.weights, where)
    config = read_json(files.config) if with_config else {}
    return Checkpoint(stored, config, where, files.weights.parent)


def _config_of(source: nn.Module, path: str) -> dict[str, Any]:
    """What a module in memory says of itself: its class, and its config where it has one."""
    try:
        inner = source.get_submodule(path)  # the model, whatever holds it
    except AttributeError:
        inner = source
    config = getattr(inner, "config", None)
    said = config if isinstance(config, Mapping) else {}
    return {"_model_class": type(inner).__name__, **said}


def _find(
    source: str | os.PathLike[str], access: hub.Access, beside: Collection[str]
) -> hub.ModelFiles:
    """The file of weights, and the config that belongs to it."""
    path = path_of("the checkpoint", source)
    if is_file(path):
        hub.check_no_revision(path, access, "file")
        return hub.ModelFiles(path.parent / CONFIG, path)
    if is_folder(path):
        files = hub.find_files(path, access)
        for name in (WEIGHTS, PICKLE):
            if (path / name).is_file():
                return hub.ModelFiles(files.config, path / name)
        raise StorageError(
            f"The folder {os.fspath(source)!r} has neither {WEIGHTS} nor {PICKLE}"
            f"{_split(path)}. Give the file of the weights itself."
        )
    check_may_be_remote(source)
    if not hub.is_repo_id(source):
        raise StorageError(
            f"There is no file and no folder {os.fspath(source)!r}, and it is no repository id "
            "(user/name) either."
        )
    repo_id = os.fspath(source)
    lacking = (
        f"it has no {CONFIG}, or neither {WEIGHTS} nor {PICKLE}. Weights under another name, or "
        "split over several files, have to be downloaded: give the file itself."
    )
    with also_not_here(source), hub.hub_errors(f"load {repo_id!r}", lacking=lacking):
        config = hub.fetch(repo_id, CONFIG, access, largest=hub.LARGEST_CONFIG)
        at = hub.pinned(config, access)
        most = hub.LARGEST_WEIGHTS
        weights = hub.optional(repo_id, WEIGHTS, at, largest=most)
        weights = weights or hub.fetch(repo_id, PICKLE, at, largest=most)
        for name in beside:
            hub.optional(repo_id, name, at, largest=_MAX_CONFIG_BYTES)
        return hub.ModelFiles(config, weights)


def _split(folder: Path) -> str:
    """What a folder has instead of one file of weights."""
    if any(folder.glob("*.index.json")):
        return (
            ": its weights are split over several files. Load it with the library that wrote it, "
            "and save it in one piece (max_shard_size='100GB')"
        )
    return ""


def _loaded(path: Path) -> Any:
    """What a file holds: containers, plain values and tensors that are not read yet."""
    kind = kind_of(path)
    if kind is Kind.SAFETENSORS:
        return open_safetensors(path)
    return open_torch_zip(path) if kind is Kind.TORCH_ZIP else open_legacy(path)


def _check_size(stored: Mapping[str, Stored], path: Path, where: str) -> None:
    """Refuse tensors that would take far more memory than their file has bytes."""
    needed, there = sum(item.nbytes for item in stored.values()), path.stat().st_size
    if needed > SHARING * there + SLACK:
        raise StorageError(
            f"{where} is refused: its tensors need {needed} bytes, and the file has {there}. They "
            "use the same values over and over."
        )


def read_json(path: Path) -> dict[str, Any]:
    """A small file of JSON, or nothing where there is none.

    Raises:
        StorageError: It cannot be read, or is too large.
    """
    try:
        with open_ordinary(path) as file:
            text = file.read(_MAX_CONFIG_BYTES + 1)
        if len(text) > _MAX_CONFIG_BYTES:
            raise ValueError(f"it has more than {_MAX_CONFIG_BYTES >> 20} MiB")
        return strict_json.parse(text.decode("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
