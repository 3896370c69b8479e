"""The Hugging Face Hub: what is fetched from it, and what it says when it does not work."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import checks
from .._version import __version__
from ..errors import ArgumentError, HubError, StorageError
from .local import also_not_here, check_may_be_remote, is_file, is_folder, path_of

#: What a model is kept in, on the Hub as in a folder.
CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: Bytes of a config: one of a model with 20000 named classes fits; nothing honest is larger.
LARGEST_CONFIG = 2**20
#: Bytes of weights of a model that is not known yet.
LARGEST_WEIGHTS = 2**36
#: What writing into a file fails with that names no file: the disk or a quota is full.
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: How many bytes the weights may have, by the config that came with them.
Largest = Callable[[Path], int]


class TooLargeError(HubError):
    """A file that is larger than it may be; it was not downloaded."""


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
        repo_type: ``space``, or None for a repository of a model.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    repo_type: str | None = None

    def __post_init__(self) -> None:
        if self.revision is not None:
            checks.text("revision", self.revision)


def find_files(
    folder_or_repo: str | os.PathLike[str], access: Access, *, largest: Largest | None = None
) -> ModelFiles:
    """The files of a folder, or of a repository on the Hub after downloading them.

    What exists here goes before a repository of the same name. Of a folder's own
    ``model.safetensors`` the folder is taken.

    Args:
        folder_or_repo: A path, or ``user/name``.
        access: How a repository is reached.
        largest: The most bytes that weights may have, asked before they are downloaded.

    Raises:
        ArgumentError: It is no path and no name.
        StorageError: It is neither a folder nor a repository id.
        HubError: The repository or the network could not be reached.
    """
    if not isinstance(folder_or_repo, (str, os.PathLike)):
        raise ArgumentError(
            "Expected a folder, or user/name on the Hub, got "
            f"{checks.shown(folder_or_repo)} ({type(folder_or_repo).__name__})."
        )
    folder = path_of("the model", folder_or_repo)
    if is_folder(folder):
        check_no_revision(folder, access, "folder")
        return ModelFiles(folder / CONFIG, folder / WEIGHTS)
    if is_file(folder):
        check_no_revision(folder, access, "file")
        if folder.name == WEIGHTS:
            return ModelFiles(folder.parent / CONFIG, folder)
        raise StorageError(
            f"{os.fspath(folder)!r} is a file here, no folder with {CONFIG} and {WEIGHTS}. A "
            "checkpoint of another library is brought over by segzoo.convert, or segzoo convert."
        )
    check_may_be_remote(folder_or_repo)
    if not is_repo_id(folder_or_repo):
        raise StorageError(
            f"There is no folder {checks.shown(os.fspath(folder_or_repo))}, and it is no "
            "repository id (user/name) either."
        )
    with also_not_here(folder_or_repo):
        return find_remote(str(folder_or_repo), access, largest=largest)


def check_no_revision(path: Path, access: Access, kind: str) -> None:
    """Refuse a revision of what is here, where it would be left out of account.

    Raises:
        StorageError: There is one.
    """
    if access.revision is not None:
        raise StorageError(
            f"{os.fspath(path)!r} is a {kind} here, which goes before a repository of that "
            f"name, and a {kind} has no revision {access.revision!r}. Drop the revision, or "
            "work in another directory to reach the repository."
        )


def find_remote(repo_id: str, access: Access, *, largest: Largest | None = None) -> ModelFiles:
    """The files of a repository on the Hub, downloaded into the cache, from one commit.

    Raises:
        HubError: The repository or the network could not be reached, or a file is too large.
    """
    lacking = f"it has no {CONFIG} or no {WEIGHTS}, so it is no model saved by segzoo."
    with hub_errors(f"load {checks.shown(repo_id)}", lacking=lacking):
        config = fetch(repo_id, CONFIG, access, largest=LARGEST_CONFIG)
        at = pinned(config, access)
        limit = LARGEST_WEIGHTS if largest is None else largest(config)
        return ModelFiles(config, fetch(repo_id, WEIGHTS, at, largest=limit))


def fetch(repo_id: str, name: str, access: Access, *, largest: int) -> Path:
    """One file of a repository, in the cache; its size is looked at before it is downloaded.

    Raises:
        TooLargeError: It has more bytes than ``largest``.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cache_dir = None if access.cache_dir is None else os.fspath(access.cache_dir)

    def download(dry_run: bool) -> Any:
        return hf_hub_download(
            repo_id,
            name,
            repo_type=access.repo_type,
            revision=access.revision,
            token=access.token,
            cache_dir=cache_dir,
            local_files_only=access.local_files_only,
            library_name="segzoo",
            library_version=__version__,
            dry_run=dry_run,
        )

    found = download(True)
    _check_size(repo_id, name, found.file_size, largest)
    cached = try_to_load_from_cache(repo_id, name, cache_dir=cache_dir, revision=access.revision)
    if found.local_path == cached:  # what the branch points to now: nothing more to ask
        return Path(found.local_path)
    path = Path(download(False))
    _check_size(repo_id, name, path.stat().st_size, largest)  # the branch may have moved
    return path


def _check_size(repo_id: str, name: str, size: int | None, largest: int) -> None:
    if size is None or size > largest:
        raise TooLargeError(
            f"{name} of {repo_id!r} has {'an unknown number of' if size is None else f'{size:,}'} "
            f"bytes; at most {largest:,} are read. Nothing of it was used."
        )


def pinned(file: Path, access: Access) -> Access:
    """The same access, to the commit that a file in the cache is from."""
    # The cache keeps a file under its commit, so that all files come from the same one.
    return replace(access, revision=file.parent.name)


def check_is_text(repo_id: Any) -> None:
    """Refuse what is no text at all; which texts are names, the Hub's client says.

    Raises:
        ArgumentError: It is none.
    """
    if not isinstance(repo_id, str):
        raise ArgumentError(
            f"repo_id must be a string such as user/name, got {checks.shown(repo_id)} "
            f"({type(repo_id).__name__})."
        )


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


def optional(repo_id: str, name: str, access: Access, *, largest: int) -> Path | None:
    """A file of a repository, or None where it has no such file.

    Args:
        repo_id: The repository.
        name: The file.
        access: How the repository is reached.
        largest: Bytes above which the file counts as not there.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return fetch(repo_id, name, access, largest=largest)
    except LocalEntryNotFoundError:
        if access.local_files_only:
            return None
        raise
    except (EntryNotFoundError, TooLargeError):
        return None


@contextmanager
def hub_errors(
    action: str, *, lacking: str = "it has not the file that is needed for that."
) -> Iterator[None]:
    """Turn what the Hub client raises into :class:`HubError`, with what to do about it.

    Args:
        action: What could not be done.
        lacking: What to say of a repository that has not the files.
    """
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
        raise HubError(f"Could not {action}: {_advice(error, lacking)} ({first})") from raised


def _advice(error: Exception, lacking: str) -> str:
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
        return lacking
    if isinstance(error, errors.HFValidationError):
        return "this is no name that the Hub allows (user/name)."
    if status in (401, 403):
        return "the Hub refused: the token is missing, wrong, or may not write there."
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "no token was found: log in with 'hf auth login', or pass the token itself."
    if status is not None:
        return f"the Hub answered with status {status}; nothing was changed, try again."
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _FULL):
        return "a file or folder here could not be read or written. Nothing was published."
    if isinstance(error, UnicodeError):
        return "the token, the revision or a name has characters that the Hub does not take."
    return (
        "the connection failed. Nothing was published or replaced: call this again, and it goes on."
    )
