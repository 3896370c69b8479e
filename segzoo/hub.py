"""Where models are kept: a folder of three files, or a repository of them on the Hugging Face Hub.

    config.json         what rebuilds the model
    model.safetensors   the weights, with a copy of the config in the header
    README.md           the model card

A folder is always whole. Replacing ``model.safetensors`` is the commit of a save, because it has
the config with it: a ``config.json`` that a killed save left behind is recognised by its
``save_id``, and the copy is used instead. Nothing here knows what a model is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ._version import __version__
from .errors import HubError, StorageError

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


@dataclass(frozen=True)
class ModelFiles:
    """The two files that a model is loaded from."""

    config: Path
    weights: Path


def write_folder(
    folder: str | os.PathLike[str], config: str, tensors: Mapping[str, Tensor], card: str
) -> Path:
    """Write a model's files into a folder, which is made where it is missing.

    A write that fails or is killed leaves the model that was there before. A card that is there
    already is kept.

    Args:
        config: The text of ``config.json``.
        tensors: Dense, and no two of them sharing storage.
        card: The text of ``README.md``.

    Raises:
        StorageError: The folder cannot be written.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with replacing(target / WEIGHTS) as temporary:
            metadata = {"format": "pt", "library_name": "segzoo", "config": config}
            save_file(dict(tensors), temporary, metadata=metadata)
        with replacing(target / CONFIG) as temporary:
            temporary.write_text(config, encoding="utf-8")
        if not (target / CARD).exists():
            with replacing(target / CARD) as temporary:
                temporary.write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"The model could not be saved to {target}: {error}. What was there before still "
            "stands; nothing half written is left."
        ) from error
    return target


def find(
    folder_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> ModelFiles:
    """The files of a folder, or of a repository on the Hub after downloading them.

    A folder that exists goes before a repository of the same name.

    Raises:
        StorageError: It is neither a folder nor a repository id.
        HubError: The repository or the network could not be reached.
    """
    folder = Path(folder_or_repo)
    if folder.is_dir():
        return ModelFiles(folder / CONFIG, folder / WEIGHTS)
    if not _is_repo_id(folder_or_repo):
        raise StorageError(
            f"There is no folder {os.fspath(folder_or_repo)!r}, and it is no repository id "
            "(user/name) either."
        )
    return _download(str(folder_or_repo), revision, token, cache_dir, local_files_only)


def upload(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to a repository, which is made where it is missing.

    Returns:
        The address of the commit.

    Raises:
        HubError: The Hub refused, or could not be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="segzoo", library_version=__version__)
    with hub_errors(f"push to {repo_id!r}"):
        api.create_repo(repo_id, private=private, token=token, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=os.fspath(folder),
            token=token,
            revision=revision,
            commit_message=commit_message or "Upload a model with segzoo",
            create_pr=create_pr,
        )
        return str(commit.commit_url)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that becomes ``path`` in one step when all went well."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_repo_id(name: str | os.PathLike[str]) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not isinstance(name, str) or name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _download(
    repo_id: str,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> ModelFiles:
    from huggingface_hub import hf_hub_download

    def fetch(name: str, at: str | None) -> Path:
        return Path(
            hf_hub_download(
                repo_id,
                name,
                revision=at,
                token=token,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                local_files_only=local_files_only,
                library_name="segzoo",
                library_version=__version__,
            )
        )

    with hub_errors(f"load {repo_id!r}"):
        config = fetch(CONFIG, revision)
        # The cache keeps a file under its commit: the weights come from the same one.
        return ModelFiles(config, fetch(WEIGHTS, config.parent.name))


@contextmanager
def hub_errors(action: str) -> Iterator[None]:
    """Turn what the Hub client raises into :class:`HubError`."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    try:
        yield
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HubError(f"Could not {action}: {first}") from error
