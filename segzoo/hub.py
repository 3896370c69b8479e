"""Where models are kept: a folder of three files, or a repository of them on the Hugging Face Hub.

    config.json         what rebuilds the model
    model.safetensors   the weights, with a copy of the config in the header
    README.md           the model card

A folder is always whole. Replacing ``model.safetensors`` is the commit of a save, because it has
the config with it: a ``config.json`` that a killed save left behind is recognised by its
``save_id``, and the copy is used instead. Only files of these names, and the card's picture, are
ever read from or written to a repository. Nothing here knows what a model is.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from . import weights_file
from ._version import __version__
from .errors import HubError, StorageError

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
#: Names that the picture on a card has, by the suffix of the file that was given.
PICTURE_NAMES = {
    ".png": "example.png",
    ".jpg": "example.jpg",
    ".jpeg": "example.jpg",
    ".webp": "example.webp",
}
PICTURES = tuple(dict.fromkeys(PICTURE_NAMES.values()))
#: Age in seconds after which a temporary file is what a killed save left behind.
_STALE = 24 * 3600

#: Whether the text of a card may be replaced.
MayReplace = Callable[[str], bool]


@dataclass(frozen=True)
class ModelFiles:
    """The two files that a model is loaded from."""

    config: Path
    weights: Path


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a repository is reached; every request is made with all of it.

    Args:
        revision: Branch, tag or commit; None for the main branch.
        token: Access token; True for the one that was logged in with, None for that one where
            there is one.
        cache_dir: Where downloads are kept; None for the Hub's own cache.
        local_files_only: Do not touch the network.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False


def write_folder(
    folder: str | os.PathLike[str],
    config: str,
    tensors: Mapping[str, Tensor],
    card: str,
    *,
    picture: Path | None = None,
    may_replace: MayReplace = lambda card: False,
) -> Path:
    """Write a model's files into a folder, which is made where it is missing.

    A write that fails or is killed leaves the model that was there before.

    Args:
        config: The text of ``config.json``.
        tensors: Dense, and no two of them sharing storage.
        card: The text of ``README.md``.
        picture: A picture for the card, of a type in :data:`PICTURE_NAMES`.
        may_replace: Whether a card that is there already may be replaced.

    Raises:
        StorageError: The folder cannot be written.
    """
    target = Path(folder)
    with _saving(target):
        _sweep(target)
        with replacing(target / WEIGHTS) as temporary:
            metadata = {"format": "pt", "library_name": "segzoo", "config": config}
            weights_file.write(temporary, tensors, metadata)
        _write_text(target / CONFIG, config)
        if picture is not None:
            _copy(picture, target / PICTURE_NAMES[picture.suffix.lower()])
        _write_card(target, card, may_replace)
    return target


def find(folder_or_repo: str | os.PathLike[str], access: Access) -> ModelFiles:
    """The files of a folder, or of a repository on the Hub after downloading them.

    A folder that exists goes before a repository of the same name.

    Raises:
        StorageError: It is neither a folder nor a repository id.
        HubError: The repository or the network could not be reached.
    """
    folder = Path(folder_or_repo)
    if folder.is_dir():
        if access.revision is not None:
            raise StorageError(
                f"{os.fspath(folder)!r} is a folder here, which goes before a repository of that "
                f"name, and a folder has no revision {access.revision!r}. Drop the revision, or "
                "work in another directory to reach the repository."
            )
        return ModelFiles(folder / CONFIG, folder / WEIGHTS)
    if not is_repo_id(folder_or_repo):
        raise StorageError(
            f"There is no folder {os.fspath(folder_or_repo)!r}, and it is no repository id "
            "(user/name) either."
        )
    return find_remote(str(folder_or_repo), access)


def find_remote(repo_id: str, access: Access) -> ModelFiles:
    """The files of a repository on the Hub, downloaded into the cache, from one commit.

    Raises:
        HubError: The repository or the network could not be reached.
    """
    with hub_errors(f"load {repo_id!r}"):
        config = fetch(repo_id, CONFIG, access)
        return ModelFiles(config, fetch(repo_id, WEIGHTS, pinned(config, access)))


def fetch(repo_id: str, name: str, access: Access) -> Path:
    """One file of a repository, in the cache."""
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            repo_id,
            name,
            revision=access.revision,
            token=access.token,
            cache_dir=None if access.cache_dir is None else os.fspath(access.cache_dir),
            local_files_only=access.local_files_only,
            library_name="segzoo",
            library_version=__version__,
        )
    )


def pinned(file: Path, access: Access) -> Access:
    """The same access, to the commit that a file in the cache is from."""
    # The cache keeps a file under its commit, so that all files come from the same one.
    return Access(
        revision=file.parent.name,
        token=access.token,
        cache_dir=access.cache_dir,
        local_files_only=access.local_files_only,
    )


def download(
    files: ModelFiles,
    repo_id: str,
    folder: str | os.PathLike[str],
    access: Access,
    *,
    may_replace: MayReplace,
) -> Path:
    """Copy a repository's files into a folder: the two that were found, the card, its picture.

    Raises:
        HubError: The card could not be fetched.
        StorageError: The folder cannot be written.
    """
    target = Path(folder)
    at = pinned(files.config, access)
    with hub_errors(f"pull {repo_id!r}"):
        card = _optional(repo_id, CARD, at)
        text = card.read_text(encoding="utf-8", errors="replace") if card else ""
        names = [name for name in PICTURES if name in text]
        pictures = {name: _optional(repo_id, name, at) for name in names}
    with _saving(target):
        _sweep(target)
        _copy(files.weights, target / WEIGHTS)
        _copy(files.config, target / CONFIG)
        for name, picture in pictures.items():
            if picture is not None:
                _copy(picture, target / name)
        if card is not None:
            _write_card(target, text, may_replace)
    return target


def upload(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    may_replace: MayReplace,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to a repository, which is made where it is missing, in one commit.

    Args:
        may_replace: Whether a card that the repository has already may be replaced.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        HubError: The Hub refused, or could not be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="segzoo", library_version=__version__, token=token)
    with hub_errors(f"push to {repo_id!r}"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        patterns = [CONFIG, WEIGHTS, *PICTURES]
        existing = _remote_card(repo_id, revision, token)
        if existing is None or may_replace(existing):
            patterns.append(CARD)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=os.fspath(folder),
            allow_patterns=patterns,
            revision=revision,
            commit_message=commit_message or "Upload a model with segzoo",
            create_pr=create_pr,
        )
        return str(commit.pr_url or commit.commit_url)


def is_repo_id(name: str | os.PathLike[str]) -> bool:
    """Whether a name has the form ``user/name`` that the Hub allows."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not isinstance(name, str) or name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _remote_card(repo_id: str, revision: str | None, token: str | bool | None) -> str | None:
    """The text of a repository's card, or None where it has none."""
    with tempfile.TemporaryDirectory() as cache:
        path = _optional(repo_id, CARD, Access(revision=revision, token=token, cache_dir=cache))
        return None if path is None else path.read_text(encoding="utf-8", errors="replace")


def _optional(repo_id: str, name: str, access: Access) -> Path | None:
    """A file of a repository, or None where it has no such file."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return fetch(repo_id, name, access)
    except LocalEntryNotFoundError:
        if access.local_files_only:
            return None
        raise
    except EntryNotFoundError:
        return None


@contextmanager
def _saving(target: Path) -> Iterator[None]:
    """Make the folder, and turn what goes wrong in it into :class:`StorageError`."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The model could not be saved to {target}: {error}. What was there before still "
            "stands, and nothing half written is left. Free some space or choose another folder, "
            "and save again."
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that becomes ``path`` in one step when all went well."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _copy(source: Path, path: Path) -> None:
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def _write_card(folder: Path, card: str, may_replace: MayReplace) -> None:
    path = folder / CARD
    if not path.exists() or may_replace(path.read_text(encoding="utf-8", errors="replace")):
        _write_text(path, card)


def _sweep(folder: Path) -> None:
    """Remove what saves that were killed long ago left behind."""
    for name in (WEIGHTS, CONFIG, CARD, *PICTURES):
        for path in folder.glob(f".{name}.*.tmp"):
            with suppress(FileNotFoundError):  # another process is at it
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()


@contextmanager
def hub_errors(action: str) -> Iterator[None]:
    """Turn what the Hub client raises into :class:`HubError`, with what to do about it."""
    # HTTPError is that of the httpx that the client is built on, whichever version it is.
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except (
        *(HfHubHTTPError, OfflineModeIsEnabled, HTTPError),
        *(OSError, ValueError, RuntimeError),
    ) as raised:
        if isinstance(raised, StorageError):
            raise
        error: Exception = raised
        if isinstance(raised, RuntimeError):
            # The client wraps what goes wrong in an upload into one; others are not the Hub's.
            if not isinstance(raised.__cause__, Exception):
                raise
            error = raised.__cause__
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HubError(f"Could not {action}: {_advice(error)} ({first})") from raised


def _advice(error: Exception) -> str:
    """What went wrong and what to do, by the kind of error."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return "its owner asks for conditions to be accepted on its page first, and for a token."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private: check the name, or pass token=."
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision: check the branch, tag or commit."
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            "the Hub cannot be reached and the cache does not have all of it. Connect to the "
            "network and call this again; what was downloaded is kept."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"it has no {CONFIG} or no {WEIGHTS}, so it is no model saved by segzoo."
    if isinstance(error, errors.HFValidationError):
        return "this is no name that the Hub allows (user/name)."
    if status in (401, 403):
        return "the Hub refused: the token is missing, wrong, or may not write there."
    if status is not None:
        return f"the Hub answered with status {status}; nothing was changed, try again."
    return (
        "the connection failed. Nothing was published or replaced: call this again, and it goes on."
    )
