"""Models in folders and on the Hub: what a config says is built, what a file holds is put in."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .. import hub
from .._version import __version__
from ..config import ModelConfig
from ..encoders import Encoder, build_on_meta, is_known
from ..errors import ArgumentError, ConfigError, StorageError, UnknownNameError, WeightsError
from .architectures import ARCHITECTURES
from .card import model_card

if TYPE_CHECKING:
    from typing_extensions import Self

    from .base import SegmentationModel

#: Raised when a folder written by this version could not be read by an older one.
FORMAT_VERSION = 1
#: A config of a model with 65536 named classes fits; nothing honest is larger.
MAX_CONFIG_BYTES = 8 * 2**20


class StoredModel(nn.Module, ABC):
    """The part of a model that knows how to leave and enter a folder or a repository."""

    architecture: ClassVar[str]
    config: ModelConfig
    encoder: Encoder

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model into a folder, which is made where it is missing.

        A save that fails or is killed leaves the model that was there before. A ``README.md``
        that is there already is kept.

        Raises:
            StorageError: The folder cannot be written, or the encoder has no name to be found by.
        """
        return hub.write_folder(folder, _config_text(self), _tensors(self), self._card())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Save the model and upload it to ``repo_id`` (``"user/name"``), made where it is missing.

        Returns:
            The address of the commit.

        Raises:
            HubError: The Hub refused, or could not be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a model, in eval mode, from a folder or from the Hugging Face Hub.

        ``segzoo.from_pretrained`` loads any architecture, ``segzoo.Unet.from_pretrained`` a Unet.
        Nothing but the model's own two files is read; timm's weights are never fetched.

        Args:
            folder_or_repo: A folder made by :meth:`save_pretrained`, or ``"user/name"`` on the
                Hub. A folder that exists goes first.
            revision: Branch, tag or commit of the repository.
            token: Access token for a private repository; True for the one that was logged in with.
            cache_dir: Where downloads are kept; None for the Hub's own cache.
            local_files_only: Do not touch the network, use what the cache has.

        Raises:
            ConfigError: ``config.json`` is missing, not one of segzoo's, or of another
                architecture.
            WeightsError: ``model.safetensors`` is missing, damaged or of another model.
            HubError: The repository or the network could not be reached.
        """
        files = hub.find(
            folder_or_repo,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        model = _load(files)
        if not isinstance(model, cls):
            raise ConfigError(
                f"{os.fspath(folder_or_repo)} holds a model of the architecture "
                f"{model.architecture!r}, not a {cls.__name__}; segzoo.from_pretrained loads any."
            )
        return model

    def _card(self) -> str:
        return model_card(self.architecture, type(self).__name__, self.config)


def _load(files: hub.ModelFiles) -> SegmentationModel:
    """Build the model that a config describes and put the weights of a file into it."""
    config, save_id = _parse(_read_config(files.config), str(files.config))
    try:
        with safe_open(files.weights, framework="pt") as weights:
            embedded = (weights.metadata() or {}).get("config")
            if embedded is not None:
                inner, inner_id = _parse(embedded, f"the header of {files.weights}")
                # Another save_id: config.json was left behind by a save that was interrupted.
                config = config if inner_id == save_id else inner
            return _assemble(config, weights, files.weights)
    except FileNotFoundError as error:
        raise WeightsError(f"There is no {hub.WEIGHTS} beside {files.config}.") from error
    except SafetensorError as error:
        raise WeightsError(f"{files.weights} is damaged or incomplete: {error}.") from error


def _build(config: ModelConfig) -> SegmentationModel:
    """A model with fresh weights from its config."""
    name = next(name for name, kind in ARCHITECTURES.items() if kind.config_class is type(config))
    return ARCHITECTURES[name](**vars(config))


def _assemble(config: ModelConfig, weights: Any, path: Path) -> SegmentationModel:
    model = build_on_meta(lambda: _build(config))
    expected = model.state_dict()
    _compare(weights, expected, path)
    if {name for name, _ in model.named_buffers()} - expected.keys():
        # Buffers that are not saved have values only in a model that was really built.
        model = _build(config)
    model.load_state_dict({name: weights.get_tensor(name) for name in expected}, assign=True)
    return model.eval()


def _compare(weights: Any, expected: Mapping[str, Tensor], path: Path) -> None:
    """Names and shapes in the file's header against the model's, before any data is read."""
    names = set(weights.keys())
    missing, extra = sorted(expected.keys() - names), sorted(names - expected.keys())
    if missing or extra:
        raise WeightsError(
            f"{path} belongs to another model: {len(missing)} tensors are missing "
            f"{missing[:3]}, {len(extra)} are unknown {extra[:3]}."
        )
    for name, tensor in expected.items():
        shape = tuple(weights.get_slice(name).get_shape())
        if shape != tuple(tensor.shape):
            raise WeightsError(
                f"{path} belongs to another model: {name} has the shape {shape}, the model needs "
                f"{tuple(tensor.shape)}."
            )


def _tensors(model: StoredModel) -> dict[str, Tensor]:
    """The state dict as safetensors wants it: dense, and no two names for one storage."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        tensor = value.detach().contiguous()
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return tensors


def _config_text(model: StoredModel) -> str:
    name = model.encoder.name
    if not is_known(name):
        raise StorageError(
            f"The encoder {name!r} was given as a module, so a saved model could not be built "
            "again. Register it with segzoo.register_encoder, and give its name to the model."
        )
    content = {
        "library_name": "segzoo",
        "format_version": FORMAT_VERSION,
        "segzoo_version": __version__,
        "architecture": model.architecture,
        "arguments": model.config.arguments(),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "save_id": digest[:16]}, indent=2) + "\n"


def _read_config(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes: no segzoo config.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no {hub.CONFIG} in {path.parent}: is it a folder saved by segzoo?"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, StorageError):
            raise
        raise ConfigError(f"{path} cannot be read: {error}.") from error


def _parse(text: str, where: str) -> tuple[ModelConfig, object]:
    """The config in a JSON text, and the id of the save that wrote it."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid JSON: {error}.") from error
    if not isinstance(data, dict) or data.get("library_name") != "segzoo":
        raise ConfigError(
            f"{where} is not a config of segzoo. Checkpoints of other libraries have to be "
            "converted first."
        )
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{where} has format version {version!r}, this segzoo ({__version__}) reads "
            f"{FORMAT_VERSION}. Update segzoo: pip install -U segzoo."
        )
    arguments = data.get("arguments")
    if not isinstance(arguments, dict):
        raise ConfigError(f"{where} has no arguments.")
    try:
        name = data.get("architecture")
        if not isinstance(name, str):
            raise UnknownNameError(f"architecture must be a string, got {name!r}.")
        return ARCHITECTURES[name].config_class.from_arguments(arguments), data.get("save_id")
    except ArgumentError as error:
        raise ConfigError(f"{where} is not valid: {error}") from error
