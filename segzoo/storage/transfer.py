"""Folders of models on their way to and from the Hub, checked before anything is changed."""

from __future__ import annotations

import os
from pathlib import Path

from .. import checks
from ..errors import StorageError
from ..files import hub
from ..files.atomic import check_folder
from ..files.local import path_of
from . import hub_folder
from .card import is_unedited
from .config_json import distinct
from .model_folder import CARD, complete, read_card
from .pretrained import check, config_text, largest_weights


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    check_finite: bool = True,
) -> str:
    """Upload a folder that :meth:`StoredModel.save_pretrained` wrote, after checking it.

    A save that was killed before it wrote ``config.json`` is brought to its end first. The folder's
    ``README.md`` goes along, unless segzoo wrote it and the repository's is a person's.

    Args:
        folder: Where the model is.
        repo_id: ``"user/name"``.
        private: Whether a repository that has to be made is private; None for your default.
        token: Access token with the right to write; None for the one you logged in with.
        revision: Branch to commit to, made where it is missing; None for the main branch.
        commit_message: First line of the commit.
        create_pr: Open a pull request instead of committing.
        check_finite: Refuse weights that are NaN or infinite.

    Returns:
        The address of the commit or pull request.

    Raises:
        ArgumentError: ``folder`` is no path, or ``repo_id`` no text.
        StorageError: The folder holds no whole model, or its weights are not finite.
        HubError: The Hub refused, or could not be reached.
    """
    folder = path_of("folder", folder)
    hub.check_is_text(repo_id)
    if not folder.is_dir():
        raise StorageError(f"There is no folder {os.fspath(folder)!r} to push.")
    files = hub.find_files(folder, hub.Access())
    check(files, check_finite=check_finite)
    complete(folder, config_text(files))
    written = _is_written(Path(folder))
    return hub_folder.upload(
        folder,
        repo_id,
        may_replace=lambda existing: written or is_unedited(existing),
        private=private,
        token=token,
        revision=revision,
        commit_message=commit_message,
        create_pr=create_pr,
    )


def pull(
    repo_id: str,
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    check_finite: bool = True,
) -> Path:
    """Download a model into a folder, which is changed only when the model was found to be whole.

    A ``README.md`` that a person wrote or edited there is kept.

    Args:
        repo_id: ``"user/name"``.
        folder: Where to, made where it is missing.
        revision: Branch, tag or commit of the repository.
        token: Access token for a private repository; None for the one you logged in with.
        cache_dir: Where downloads are kept; None for the Hub's own cache.
        local_files_only: Do not touch the network, use what the cache has.
        check_finite: Refuse weights that are NaN or infinite.

    Returns:
        The folder.

    Raises:
        ArgumentError: ``folder`` is no path.
        StorageError: What was downloaded is no whole model, its weights are not finite, or the
            folder cannot be written.
        HubError: The repository or the network could not be reached.
    """
    folder = path_of("folder", folder)
    check_folder(folder)
    if not hub.is_repo_id(repo_id):
        raise StorageError(f"{checks.shown(repo_id)} is no repository id (user/name).")
    access = hub.Access(
        revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    files = hub.find_remote(repo_id, access, largest=largest_weights)
    check(files, check_finite=check_finite)
    return hub_folder.download(
        files,
        config_text(files),
        repo_id,
        folder,
        access,
        distinct=distinct,
        may_replace=is_unedited,
    )


def _is_written(folder: Path) -> bool:
    """Whether the folder has a card that a person wrote or edited."""
    try:
        card = read_card(folder / CARD)
    except OSError:  # not one that goes along
        return False
    return card is not None and not is_unedited(card)
