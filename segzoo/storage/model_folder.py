"""Where models are kept: a folder of three files, or a repository of them on the Hugging Face Hub.

    config.json         what rebuilds the model
    model.safetensors   the weights, with a copy of the config in the header
    README.md           the model card

and, of a model that was trained here, ``training/``: :data:`RECORDS` go along to the Hub and back.
What else is in there stays: the state of the training, which belongs to one machine, the paths of
the data, and pictures of it.

A folder is always whole. Replacing ``model.safetensors`` is the commit of a save, because it has
the config with it: a ``config.json`` that a killed save left behind is recognised by its
``save_id``, and the copy is used instead. Only files of these names, and the card's picture, are
ever read from or written to a repository. Nothing here knows what a model is.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from .._version import __version__
from ..errors import StorageError
from ..files.atomic import copy_file, replacing, write_text
from ..files.hub import CONFIG, WEIGHTS, Access, ModelFiles, hub_errors, optional, pinned
from . import safetensors_file

CARD = "README.md"
#: Names that the picture on a card has, by the suffix of the file that was given.
PICTURE_NAMES = {
    ".png": "example.png",
    ".jpg": "example.jpg",
    ".jpeg": "example.jpg",
    ".webp": "example.webp",
}
PICTURES = tuple(dict.fromkeys(PICTURE_NAMES.values()))
#: What is known of a training, and may be shown to strangers.
RECORDS = tuple(
    f"training/{name}"
    for name in ("recipe.json", "metrics.jsonl", "metrics.json", "curves.png", "confusion.png")
)
#: Bytes above which a stranger's picture or record is left where it is.
_LARGEST = 32 * 2**20
#: Age in seconds after which a temporary file is what a killed save left behind.
_STALE = 24 * 3600

#: Whether the text of a card may be replaced.
MayReplace = Callable[[str], bool]


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
            safetensors_file.write(temporary, tensors, metadata)
        write_text(target / CONFIG, config)
        if picture is not None:
            copy_file(picture, target / PICTURE_NAMES[picture.suffix.lower()])
        _write_card(target, card, may_replace)
    return target


def write_card(
    folder: str | os.PathLike[str],
    card: str,
    *,
    picture: Path | None = None,
    may_replace: MayReplace = lambda card: False,
) -> Path:
    """Write the card of a model that is there, and the card's picture.

    Returns:
        The card's file.

    Raises:
        StorageError: The folder cannot be written.
    """
    target = Path(folder)
    with _saving(target):
        if picture is not None:
            copy_file(picture, target / PICTURE_NAMES[picture.suffix.lower()])
        _write_card(target, card, may_replace)
    return target / CARD


def download(
    files: ModelFiles,
    repo_id: str,
    folder: str | os.PathLike[str],
    access: Access,
    *,
    may_replace: MayReplace,
) -> Path:
    """Copy a repository's files into a folder: the two that were found, the card, what it shows.

    Raises:
        HubError: The card could not be fetched.
        StorageError: The folder cannot be written.
    """
    target = Path(folder)
    at = pinned(files.config, access)
    with hub_errors(f"pull {repo_id!r}"):
        card = optional(repo_id, CARD, at)
        text = card.read_text(encoding="utf-8", errors="replace") if card else ""
        names = [name for name in PICTURES if name in text]
        # A card that segzoo wrote names the folder where there are records.
        names += RECORDS if "training/" in text else ()
        others = {name: optional(repo_id, name, at, largest=_LARGEST) for name in names}
    with _saving(target):
        _sweep(target)
        copy_file(files.weights, target / WEIGHTS)
        copy_file(files.config, target / CONFIG)
        for name, other in others.items():
            if other is not None:
                (target / name).parent.mkdir(exist_ok=True)
                copy_file(other, target / name)
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
        patterns += [name for name in RECORDS if _lies_in(Path(folder), name)]
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


def _remote_card(repo_id: str, revision: str | None, token: str | bool | None) -> str | None:
    """The text of a repository's card, or None where it has none."""
    with tempfile.TemporaryDirectory() as cache:
        path = optional(repo_id, CARD, Access(revision=revision, token=token, cache_dir=cache))
        return None if path is None else path.read_text(encoding="utf-8", errors="replace")


def _lies_in(folder: Path, name: str) -> bool:
    """Whether a file is there, and not a link to somewhere else."""
    path = folder / name
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


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


def _write_card(folder: Path, card: str, may_replace: MayReplace) -> None:
    path = folder / CARD
    if not path.exists() or may_replace(path.read_text(encoding="utf-8", errors="replace")):
        write_text(path, card)


def _sweep(folder: Path) -> None:
    """Remove what saves that were killed long ago left behind."""
    for name in (WEIGHTS, CONFIG, CARD, *PICTURES):
        for path in folder.glob(f".{name}.*.tmp"):
            with suppress(FileNotFoundError):  # another process is at it
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()
