"""What was done with each picture: lines of JSON, to which a run only ever adds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, StorageError


class Manifest:
    """A file with a line for the run, and one for each picture that was done or failed.

    Another run with the same file goes on: what is done is not done again, what failed is. A line
    that a killed run left half written is passed over.

    Args:
        path: The file; made where it is missing.
        run: What the results depend on: another run must have the same.

    Raises:
        ArgumentError: The file belongs to a run with something else.
        StorageError: It cannot be read or written.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self._done: set[int] = set()
        run = json.loads(json.dumps(run))
        try:
            begun = self._read(run)
            self._file = path.open("a", encoding="utf-8", errors="surrogateescape")
            # A line that was cut short must not become one with the next.
            if path.stat().st_size and not _ends_with_line(path):
                self._file.write("\n")
            if not begun:
                self._add({"run": run})
        except OSError as error:
            raise StorageError(f"The manifest {path} cannot be used: {error}.") from error

    def _read(self, run: dict[str, Any]) -> bool:
        """Whether a run had begun; remembers what it did."""
        begun = False
        if not self.path.exists():
            return False
        with self.path.open(encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if not isinstance(entry, dict):
                    continue
                if "run" in entry:
                    begun = True
                    theirs = entry["run"]
                    different = [key for key in run if theirs.get(key) != run[key]]
                    if different:
                        raise ArgumentError(
                            f"{self.path} is of another run (its {', '.join(different)} differ), "
                            "and its results would be mixed with these. Choose another manifest "
                            "and another folder."
                        )
                elif entry.get("mask") is not None and entry.get("error") is None:
                    self._done.add(hash(entry["image"]))
        return begun

    def is_done(self, image: Path, outputs: list[Path]) -> bool:
        """Whether a picture was done, and its results are still there."""
        return hash(os.fspath(image)) in self._done and all(path.exists() for path in outputs)

    def done(self, image: Path, mask: Path, shares: dict[str, float]) -> None:
        """Add a picture that was done."""
        self._add({"image": os.fspath(image), "mask": os.fspath(mask), "shares": shares})

    def failed(self, image: Path, error: Exception) -> None:
        """Add a picture that could not be done."""
        self._add({"image": os.fspath(image), "error": str(error)})

    def _add(self, entry: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"The manifest {self.path} cannot be written: {error}.") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
