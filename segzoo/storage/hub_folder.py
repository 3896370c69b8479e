"""A model's files from a folder to a repository of the Hugging Face Hub, and back.

Only files of the names in :mod:`segzoo.storage.model_folder` are ever read from or written to a
repository; each has a limit, looked at before it is downloaded. Nothing here knows what a model is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..errors import warn
from ..files import leftovers
from ..files.atomic import copy_file, write_text
from ..files.hub import (
    CONFIG,
    WEIGHTS,
    Access,
    ModelFiles,
    TooLargeError,
    fetch,
    hub_errors,
    optional,
    pinned,
)
from . import safetensors_file
from .model_folder import (
    CARD,
    LARGEST_CARD,
    PICTURES,
    RECORDS,
    Distinct,
    MayReplace,
    config_there,
    lies_in,
    read_card,
    replace_card,
    saving,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: Bytes above which a stranger's picture or record is left where it is.
_LARGEST = 32 * 2**20


def download(
    files: ModelFiles,
    config: str,
    repo_id: str,
    folder: str | os.PathLike[str],
    access: Access,
    *,
    distinct: Distinct,
    may_replace: MayReplace,
) -> Path:
    """Copy a repository's files into a folder: the two that were found, the card, what it shows.

    The weights get the config into their header, whatever they had there: so replacing them is the
    one step between two models.

    Args:
        files: In the cache, and found to be a whole model.
        config: The text of the config that counts.
        repo_id: Where the files are from.
        folder: Where to.
        access: How the repository is reached.
        distinct: Makes the config another than the one that is there.
        may_replace: Whether a card that is there already may be replaced.

    Raises:
        HubError: The card could not be fetched.
        StorageError: The folder cannot be written.
    """
    target = Path(folder)
    at = pinned(files.config, access)
    with hub_errors(f"pull {repo_id!r}"):
        found = optional(repo_id, CARD, at, largest=LARGEST_CARD)
        card = None if found is None else read_card(found)
        names = [name for name in PICTURES if name in (card or "")]
        # A card that segzoo wrote names the folder where there are records.
        names += RECORDS if "training/" in (card or "") else ()
        others = {name: optional(repo_id, name, at, largest=_LARGEST) for name in names}
    with saving(target) as done:
        leftovers.sweep(target)
        leftovers.sweep(target / "training")
        config = distinct(config, config_there(target))
        safetensors_file.copy_with(files.weights, target / WEIGHTS, config=config)
        done.append(WEIGHTS)
        write_text(target / CONFIG, config)
        done.append(CONFIG)
        found_others = {name: other for name, other in others.items() if other is not None}
        for name in found_others.keys() - set(PICTURES):
            (target / name).parent.mkdir(exist_ok=True)
            copy_file(found_others[name], target / name)
        if card is not None:
            pictures = {name: found_others[name] for name in PICTURES if name in found_others}
            replace_card(target, card, may_replace, pictures)
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

    What was made for it, the repository or the branch, is removed again where that fails. Links are
    not followed: a card or picture that is one stays here, with a warning.

    Args:
        folder: Where from.
        repo_id: ``user/name``, or a name alone: then the repository is that of the token's owner.
        may_replace: Whether a card that the repository has already may be replaced.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        HubError: The Hub refused, or could not be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    api = HfApi(library_name="segzoo", library_version=__version__, token=token)
    with hub_errors(f"push to {repo_id!r}"):
        validate_repo_id(repo_id)
        with made_repository(api, repo_id, private, revision) as (full_name, _):
            names = [CONFIG, WEIGHTS]
            names += [name for name in (*PICTURES, *RECORDS, CARD) if _goes(Path(folder), name)]
            if CARD in names:
                existing = remote_card(full_name, revision, token)
                if existing is not None and not may_replace(existing):
                    names = [name for name in names if name not in (CARD, *PICTURES)]
            commit = api.upload_folder(
                repo_id=full_name,
                folder_path=os.fspath(folder),
                allow_patterns=names,
                revision=revision,
                commit_message=commit_message or "Upload a model with segzoo",
                create_pr=create_pr,
            )
        return str(commit.pr_url or commit.commit_url)


@contextmanager
def made_repository(
    api: HfApi,
    repo_id: str,
    private: bool | None,
    revision: str | None = None,
    *,
    space: bool = False,
) -> Iterator[tuple[str, bool]]:
    """A repository that is there, with the branch; what was made goes on failure.

    A repository into which somebody has put something meanwhile stays.

    Gives:
        Its full name, and whether it was made now.

    Args:
        api: The Hub's client.
        repo_id: ``user/name``, or a name alone.
        private: Whether one that has to be made is private.
        revision: A branch, made where it is missing.
        space: A static Space, not a repository of a model.

    Raises:
        Exception: What the Hub's client raises, see :func:`segzoo.files.hub.hub_errors`.
    """
    kind = "space" if space else None
    full_name, made = _created(api, repo_id, private, space=space)
    branch = None
    try:
        if revision is not None and not revision.startswith("refs/"):
            if not made and not api.revision_exists(full_name, revision, repo_type=kind):
                branch = revision
            api.create_branch(full_name, branch=revision, repo_type=kind, exist_ok=True)
        yield full_name, made
    except BaseException:
        with suppress(Exception):  # what went wrong first is what is told
            if made and len(api.list_repo_commits(full_name, repo_type=kind)) <= 1:
                api.delete_repo(full_name, repo_type=kind)
            elif branch is not None:
                api.delete_branch(full_name, branch=branch, repo_type=kind)
        raise


def _created(api: HfApi, repo_id: str, private: bool | None, *, space: bool) -> tuple[str, bool]:
    """The full name of a repository, and whether it was made now."""
    from huggingface_hub.errors import HfHubHTTPError

    def create(exist_ok: bool) -> str:
        return api.create_repo(
            repo_id,
            private=private,
            repo_type="space" if space else None,
            space_sdk="static" if space else None,
            exist_ok=exist_ok,
        ).repo_id

    try:
        return create(False), True
    except HfHubHTTPError:  # it is there, or cannot be made: the next answer tells
        return create(True), False


def _goes(folder: Path, name: str) -> bool:
    """Whether a file goes to the Hub: not what a link points to, which may be anybody's."""
    if lies_in(folder, name):
        return True
    if os.path.lexists(folder / name):
        warn(f"{folder / name} is a link or no ordinary file, and was not uploaded.")
    return False


def remote_card(
    repo_id: str, revision: str | None, token: str | bool | None, *, space: bool = False
) -> str | None:
    """The text of a repository's card, or None where it has none.

    Of one that is too large to be segzoo's there is no text: it is somebody's, and is kept.

    Raises:
        Exception: What the Hub's client raises, see :func:`segzoo.files.hub.hub_errors`.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with tempfile.TemporaryDirectory() as cache:
        kind = "space" if space else None
        access = Access(revision=revision, token=token, cache_dir=cache, repo_type=kind)
        try:
            return read_card(fetch(repo_id, CARD, access, largest=LARGEST_CARD))
        except TooLargeError:
            return ""
        except LocalEntryNotFoundError:  # the Hub did not answer
            raise
        except EntryNotFoundError:
            return None
