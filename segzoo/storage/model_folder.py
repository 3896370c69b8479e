"""Where models are kept: a folder of three files, or a repository of them on the Hugging Face Hub.

    config.json         what rebuilds the model
    model.safetensors   the weights, with a copy of the config in the header
    README.md           the model card

and, of a model that was trained here, ``training/``: :data:`RECORDS` go along to the Hub and back.
What else is in there stays: the state of the training, which belongs to one machine, the paths of
the data, and pictures of it.

A folder is always whole. Replacing ``model.safetensors`` is the commit of a save, because it has
the config with it: a ``config.json`` that a killed save left behind is recognised by its
``save_id``, and the copy is used instead. Nothing here knows what a model is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from ..errors import StorageError, warn
from ..files import leftovers
from ..files.atomic import copy_file, read_bytes, replacing, write_text
from ..files.hub import CONFIG, LARGEST_CONFIG, WEIGHTS
from ..files.local import path_of
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
#: Bytes of a card; its pictures are files of their own.
LARGEST_CARD = 4 * 2**20

#: Whether the text of a card may be replaced.
MayReplace = Callable[[str], bool]
#: A config that no other config beside it can be taken for: given the new one, and what is there.
Distinct = Callable[[str, bytes], str]


def write_folder(
    folder: str | os.PathLike[str],
    config: str,
    tensors: Mapping[str, Tensor],
    card: str,
    *,
    distinct: Distinct,
    picture: Path | None = None,
    may_replace: MayReplace = lambda card: False,
) -> Path:
    """Write a model's files into a folder, which is made where it is missing.

    A write that fails or is killed leaves the model that was there before.

    Args:
        folder: Where to.
        config: The text of ``config.json``.
        tensors: Dense, and no two of them sharing storage.
        card: The text of ``README.md``.
        distinct: Makes the config another than the one that is there.
        picture: A picture for the card, of a type in :data:`PICTURE_NAMES`.
        may_replace: Whether a card that is there already may be replaced.

    Raises:
        StorageError: The folder cannot be written.
    """
    target = path_of("folder", folder)
    with saving(target) as done:
        leftovers.sweep(target)
        config = distinct(config, config_there(target))
        with replacing(target / WEIGHTS) as temporary:
            metadata = {"format": "pt", "library_name": "segzoo", "config": config}
            safetensors_file.write(temporary, tensors, metadata)
        done.append(WEIGHTS)
        write_text(target / CONFIG, config)
        done.append(CONFIG)
        replace_card(target, card, may_replace, _named(picture))
    return target


def complete(folder: str | os.PathLike[str], config: str) -> None:
    """Write the config that counts, where a save that was killed left another one or none.

    Raises:
        StorageError: The folder cannot be written.
    """
    target = Path(folder)
    if config_there(target) != config.encode():
        with saving(target):
            write_text(target / CONFIG, config)


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
    with saving(target) as done:
        done += [WEIGHTS, CONFIG]
        replace_card(target, card, may_replace, _named(picture))
    return target / CARD


def _named(picture: Path | None) -> dict[str, Path]:
    """A picture by the name that it has on a card."""
    return {} if picture is None else {PICTURE_NAMES[picture.suffix.lower()]: picture}


def config_there(folder: Path) -> bytes:
    """The config that a folder has, as far as one could be read; nothing where there is none."""
    try:
        return read_bytes(folder / CONFIG, largest=LARGEST_CONFIG)
    except OSError:
        return b""


def read_card(path: Path) -> str | None:
    """The text of a card, or None where there is none.

    Raises:
        OSError: What is there is no file with a text of a card's size: a pipe, a device, a folder.
    """
    if not os.path.lexists(path):
        return None
    return read_bytes(path, largest=LARGEST_CARD).decode("utf-8", errors="replace")


def replace_card(
    folder: Path, card: str, may_replace: MayReplace, pictures: Mapping[str, Path]
) -> None:
    """Write a card and its pictures where there is no card, or one that may be replaced.

    A card that is kept keeps its pictures too. What is no card at all is kept, with a warning: the
    model is worth more.
    """
    path = folder / CARD
    try:
        existing = read_card(path)
    except OSError as error:
        warn(f"{path} is kept, and no card was written: {error}.")
        return
    if existing is None or may_replace(existing):
        for name, picture in pictures.items():
            copy_file(picture, folder / name)
        write_text(path, card)


def lies_in(folder: Path, name: str) -> bool:
    """Whether a file of that name is there, and neither a link nor below one, nor a pipe."""
    path = folder
    for part in Path(name).parts:
        path = path / part
        if path.is_symlink():
            return False
    return path.exists() and stat.S_ISREG(path.stat().st_mode)


@contextmanager
def saving(target: Path) -> Iterator[list[str]]:
    """Make the folder, and turn what goes wrong in it into :class:`StorageError`.

    Gives:
        A list of the files that are the new ones by now, for the message.
    """
    done: list[str] = []
    try:
        _make(target)
        yield done
    except (OSError, SafetensorError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The model could not be saved to {target}: {error}. {_state(done)} Free some space "
            "or choose another folder, and save again."
        ) from error


def _make(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except ValueError as error:  # a zero byte in its name
        raise OSError(str(error)) from error


def _state(done: list[str]) -> str:
    """What is there after a failure."""
    if not done:
        return "What was there before still stands, and nothing half written is left."
    if CONFIG not in done:
        return (
            f"The new model is there and whole, for its {WEIGHTS} has the config with it; the "
            "other files are those from before."
        )
    return "The new model is there and whole; its card, or what the card shows, is not."
