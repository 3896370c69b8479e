"""The folder of a training: the model that was best, and beside it all that is known of it.

config.json, model.safetensors, README.md      the model, as ``save_pretrained`` writes it
training/recipe.json     how it was trained
training/data.json       on what
training/metrics.jsonl   a line for each epoch
training/metrics.json    the scores of the best, and the versions that trained it
training/state.pt        what the training needs to go on; belongs to this machine
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import SegzooError, StorageError, TrainingError
from ..files import leftovers
from ..files.atomic import check_folder, make_folder, write_text
from ..files.hub import CONFIG, WEIGHTS
from ..files.local import path_of
from .samples import KINDS
from .state import read_state, write_state

#: Left by file managers; a folder with nothing else is empty.
_HIDDEN = "."
#: What a training has found out, beside its model and its state.
_RESULTS = (
    "metrics.jsonl",
    "metrics.json",
    "curves.png",
    "confusion.png",
    "report.html",
    *(f"samples/{kind}.png" for kind in KINDS),
)
#: What is found out before the first step, where a recipe asks for it.
_RATES = ("learning_rate.json", "learning_rate.png")


class TrainingFolder:
    """Where a training reads and writes.

    Attributes:
        out: The model's folder.
        inside: ``training`` in it.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = path_of("out", out)
        self.inside = self.out / "training"

    @property
    def state_file(self) -> Path:
        """Where the state is."""
        return self.inside / "state.pt"

    def look(self, *, restart: bool) -> dict[str, Any] | None:
        """The state of a training that was begun here, or None where one can begin.

        Nothing is changed.

        Args:
            restart: Forget a training that was begun here.

        Raises:
            TrainingError: The folder holds something else.
            StorageError: It cannot be read, or not be written to where something is to be.
        """
        try:
            found = self._look(restart=restart)
            if found is None or not found["finished"]:
                check_folder(self.inside)
            return found
        except (OSError, ValueError) as error:  # the latter for a path that is none
            if isinstance(error, SegzooError):
                raise
            raise StorageError(f"The folder {str(self.out)!r} cannot be read: {error}.") from error

    def _look(self, *, restart: bool) -> dict[str, Any] | None:
        if self.out.exists() and not self.out.is_dir():
            raise StorageError(f"{self.out} is a file; a training needs a folder.")
        if self.state_file.exists():
            return None if restart else read_state(self.state_file)
        if self._begun():
            return None
        there = sorted(
            path.name
            for path in (self.out.iterdir() if self.out.is_dir() else ())
            if not path.name.startswith(_HIDDEN)
        )
        if CONFIG in there or WEIGHTS in there:
            raise TrainingError(
                f"{self.out} holds a model, and no training of it that could go on. Choose another "
                "folder: a training would replace the model. To train a model further, load it "
                "with segzoo.from_pretrained and give it to segzoo.train with a new folder."
            )
        if there:
            raise TrainingError(
                f"{self.out} is not empty (it has {there[0]}), and no training was begun in it. "
                "Choose another folder."
            )
        return None

    def holds_model(self) -> bool:
        """Whether there is a model, of this training or of the one before."""
        return (self.out / WEIGHTS).exists()

    def make(self) -> None:
        """Make the folder, where it is missing.

        Raises:
            StorageError: It cannot be made.
        """
        make_folder(self.inside)
        leftovers.sweep(self.inside)

    def forget_results(self, *, rates: bool) -> None:
        """Remove what another training has left: its scores would be taken for those of this one.

        Args:
            rates: The search for a learning rate too, which is not of this training.

        Raises:
            StorageError: They cannot be removed.
        """
        try:
            for name in (*_RESULTS, *(_RATES if rates else ())):
                (self.inside / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self.inside} holds what cannot be removed: {error}.") from error

    def _begun(self) -> bool:
        """Whether a training was killed here before it had anything to save."""
        there = list(self.out.iterdir()) if self.out.is_dir() else []
        return [path.name for path in there if not path.name.startswith(_HIDDEN)] == ["training"]

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state.

        Raises:
            StorageError: It cannot be written; the one before still stands.
        """
        write_state(self.state_file, state)

    def write_json(self, name: str, value: Any) -> None:
        """Replace one of the files beside the state.

        Raises:
            StorageError: It cannot be written.
        """
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")

    def write_lines(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace one of the files by rows of JSON.

        Raises:
            StorageError: It cannot be written.
        """
        self.write_text(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def write_text(self, name: str, text: str) -> None:
        """Replace one of the files by a text.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            write_text(self.inside / name, text)
        except OSError as error:
            raise StorageError(
                f"{self.inside / name} could not be written: {error}. Free some space and start "
                "the same training again: it goes on from where it was saved."
            ) from error
