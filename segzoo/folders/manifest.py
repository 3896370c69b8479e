"""What was done with each picture: lines of JSON, to which a run only ever adds."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError, StorageError
from .jobs import Failure, Job, Outcome
from .names import stable_hash


class Manifest:
    """A file with a line for the run, and one for each picture that was done or failed.

    Another run with the same file goes on: what is done is not done again, what failed is. A line
    that a killed run left half written is passed over.

    Args:
        path: The file; made where it is missing.
        run: What the results depend on, the model's fingerprint first: another run must have the
            same.

    Raises:
        ArgumentError: The file belongs to a run with something else.
        StorageError: It cannot be read or written.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        run = json.loads(json.dumps(run))
        done = array("Q")
        try:
            begun = self._read(run, done)
            self._file = path.open("a", encoding="utf-8")
            # A line that was cut short must not become one with the next.
            if path.stat().st_size and not _ends_with_line(path):
                self._file.write("\n")
        except OSError as error:
            raise StorageError(f"The manifest {path} cannot be used: {error}.") from error
        if not begun:
            try:
                self._add({"run": run})
            except StorageError:
                with suppress(StorageError):
                    self.close()
                raise
        # Eight bytes for each of a million pictures.
        self._done = np.sort(np.frombuffer(done, np.uint64)) if done else np.empty(0, np.uint64)

    def _read(self, run: dict[str, Any], done: array[int]) -> bool:
        """Whether a run had begun; what it did is added to ``done``."""
        begun = False
        for entry in entries(self.path):
            if "run" in entry:
                begun = True
                theirs = entry["run"] if isinstance(entry["run"], dict) else {}
                different = [key for key in run if theirs.get(key) != run[key]]
                if different:
                    raise ArgumentError(
                        f"{self.path} is of another run (its {', '.join(different)} differ), and "
                        "its results would be mixed with these. Choose another manifest and "
                        "another folder."
                    )
            elif isinstance(entry.get("mask"), str) and isinstance(entry.get("image"), str):
                done.append(stable_hash(entry["image"]))
        return begun

    def is_done(self, job: Job) -> bool:
        """Whether a picture was done; whether its results are still there, is not looked at."""
        key = np.uint64(stable_hash(os.fspath(job.image)))
        place = int(self._done.searchsorted(key))
        return place < len(self._done) and bool(self._done[place] == key)

    def add(self, outcome: Outcome) -> None:
        """Add what became of a picture; nothing for one of which parts are missing still.

        Raises:
            StorageError: It cannot be written.
        """
        image = os.fspath(outcome.image)
        if isinstance(outcome, Failure):
            self._add({"image": image, "error": outcome.error})
        elif outcome.whole:
            mask = os.fspath(outcome.mask)
            self._add({"image": image, "mask": mask, "shares": outcome.shares})

    def _add(self, entry: dict[str, Any]) -> None:
        with self._writing():
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file.

        Raises:
            StorageError: What could not be written before still cannot be.
        """
        with self._writing():
            self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"The manifest {self.path} cannot be written: {error}.") from error


def has_begun(path: Path) -> bool:
    """Whether a run has written to a manifest, so that results may be its own.

    Raises:
        StorageError: It cannot be read.
    """
    try:
        return any("run" in entry for entry in entries(path))
    except OSError as error:
        raise StorageError(f"The manifest {path} cannot be used: {error}.") from error


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a manifest; none where it is missing."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
