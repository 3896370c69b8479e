"""``config.json``: what a model says of itself, written and read strictly.

The schema stands in docs/hub.md. A file may come from a stranger, so every name, type and range is
checked, and nothing is imported or looked up outside segzoo's registries because a config says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checks
from .._version import __version__
from ..config import ModelConfig
from ..encoders import ENCODERS, is_known
from ..errors import ArgumentError, ConfigError, StorageError
from ..files import hub, strict_json
from ..files.atomic import open_ordinary
from ..registry import ARCHITECTURES
from . import allowed_options

#: Raised when a folder written by this version could not be read by an older one.
FORMAT_VERSION = 1
MAX_CONFIG_BYTES = hub.LARGEST_CONFIG

_KEYS = (
    "library_name",
    "format_version",
    "segzoo_version",
    "architecture",
    "base_model",
    "arguments",
    "save_id",
)


@dataclass(frozen=True)
class Description:
    """All that is saved of a model but its weights.

    Attributes:
        architecture: The registered name.
        config: The arguments that rebuild the model.
        base_model: The Hub repository whose weights its encoder began with, or None.
    """

    architecture: str
    config: ModelConfig
    base_model: str | None = None

    def to_json(self) -> str:
        """The text of ``config.json``, with an id that tells this save from others.

        Raises:
            StorageError: The model could not be loaded again from it.
        """
        encoder = str(self.config.encoder)
        if not is_known(encoder):
            raise StorageError(
                f"The encoder {encoder!r} was given as a module, so a saved model could not be "
                "built again. Register it with segzoo.register_encoder, and give its name to the "
                "model."
            )
        content = {
            "library_name": "segzoo",
            "format_version": FORMAT_VERSION,
            "segzoo_version": __version__,
            "architecture": self.architecture,
            "base_model": self.base_model,
            "arguments": self.config.arguments(),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        text = json.dumps({**content, "save_id": digest[:16]}, indent=2) + "\n"
        try:
            parse(text, "the config")
        except ConfigError as error:
            raise StorageError(f"The model could not be loaded again: {error}") from error
        return text


def find_config(config: Path, metadata: Mapping[str, str], where: str) -> Description:
    """What a folder says of its model.

    The copy in the header of the weights counts where ``config.json`` is missing or has another
    ``save_id``: then a save was interrupted after the weights were in place. A ``config.json``
    that was edited keeps its id, and counts.

    Args:
        config: The file, which may be missing.
        metadata: Metadata of the weights file.
        where: The weights file, for messages.

    Raises:
        ConfigError: Neither is there, or one is not valid.
    """
    return parse(*find_text(config, metadata, where))[0]


def find_text(config: Path, metadata: Mapping[str, str], where: str) -> tuple[str, str]:
    """The text of the config that counts, see :func:`find_config`, and where it stands.

    Raises:
        ConfigError: Neither is there, or one is not valid.
    """
    embedded, inside = metadata.get("config"), f"the config in the header of {where}"
    inner = parse(embedded, inside) if embedded else None
    text = read(config)
    if text is None:
        if embedded is None or inner is None:
            raise ConfigError(
                f"There is no {hub.CONFIG} in {config.parent}: is it a folder saved by segzoo?"
            )
        return embedded, inside
    _, save_id = parse(text, str(config))
    if embedded is not None and inner is not None and inner[1] != save_id:
        return embedded, inside
    return text, str(config)


def distinct(text: str, existing: bytes) -> str:
    """A config with another ``save_id`` than that of a different config that is there already.

    The id tells whether ``config.json`` belongs to the weights beside it, so no two configs in one
    folder may have the same one. They do where somebody edited a config, and another model of the
    same arguments comes to that place.

    Args:
        text: A valid config.
        existing: The ``config.json`` that is going to be replaced; any bytes.
    """
    try:
        old_id = strict_json.parse(existing.decode("utf-8")).get("save_id", "none")
    except ValueError:
        return text
    content = strict_json.parse(text)
    if content.get("save_id", "none") != old_id or existing == text.encode():
        return text
    digest = hashlib.sha256(existing + text.encode()).hexdigest()
    return json.dumps({**content, "save_id": digest[:16]}, indent=2) + "\n"


def read(path: Path) -> str | None:
    """The text of a config file, or None where there is none.

    Raises:
        ConfigError: It is too large, no ordinary file, or no UTF-8.
    """
    try:
        with open_ordinary(path) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        _check_length(len(data), str(path))
        return data.decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, StorageError):
            raise
        raise ConfigError(f"{path} cannot be read: {error}.") from error


def parse(text: str, where: str) -> tuple[Description, str]:
    """The description in a JSON text, and the id of the save that wrote it.

    Raises:
        ConfigError: It is not valid; the message says what and why.
    """
    _check_length(len(text), where)
    try:
        data = strict_json.parse(text)
    except ValueError as error:
        raise ConfigError(f"{where} is not valid JSON: {error}.") from error
    if data.get("library_name") != "segzoo":
        hint = " It looks like one of segmentation_models_pytorch: use segzoo.convert.from_smp."
        raise ConfigError(
            f"{where} is not a config of segzoo. Checkpoints of other libraries have to be "
            f"converted first.{hint if '_model_class' in data else ''}"
        )
    version = data.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ConfigError(
            f"{where} has format version {checks.shown(version)}, this segzoo ({__version__}) "
            f"reads {FORMAT_VERSION}. Update segzoo: pip install -U segzoo."
        )
    try:
        return _checked(data)
    except ArgumentError as error:
        raise ConfigError(f"{where} is not valid: {error}") from error


def _checked(data: Mapping[str, Any]) -> tuple[Description, str]:
    checks.keywords("A config", data, _KEYS)
    save_id = checks.text("save_id", data.get("save_id", "none"))
    checks.text("segzoo_version", data.get("segzoo_version"))
    architecture = checks.choice("architecture", data.get("architecture"), ARCHITECTURES)
    base_model = data.get("base_model")
    if base_model is not None:
        checks.text("base_model", base_model)
    arguments = data.get("arguments")
    if not isinstance(arguments, dict):
        raise ArgumentError(f"arguments must be an object, got {checks.shown(arguments)}.")
    config = ARCHITECTURES[architecture].config_class.from_arguments(arguments)
    if config.encoder not in ENCODERS:
        allowed_options.check(config.encoder_options)
    return Description(architecture, config, base_model), save_id


def _check_length(length: int, where: str) -> None:
    if length > MAX_CONFIG_BYTES:
        raise ConfigError(f"{where} is larger than {MAX_CONFIG_BYTES} bytes: no segzoo config.")
