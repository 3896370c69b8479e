"""Bands that are done, kept beside the result until it is whole.

A run that is killed goes on from them, and several processes or machines may each add theirs: the
folder holds what was asked for, how the picture was cut, and one file for each finished band.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...data.readers.face import Values
from ...errors import ArgumentError, StorageError
from ...files import leftovers
from ...files.atomic import make_folder, read_text, replacing

_PLAN = "plan.json"


class Journal:
    """The folder of finished bands.

    Args:
        target: The result that they become.
        request: What was asked for, of whom: another run must ask for the same.
    """

    def __init__(self, target: Path, request: Mapping[str, Any]) -> None:
        self.folder = target.with_name(f"{target.name}.parts")
        self._request = json.loads(json.dumps(dict(request)))

    def tiling(self) -> dict[str, Any] | None:
        """How the picture was cut by the run that began, or None where none did.

        Raises:
            ArgumentError: That run asked for something else.
            StorageError: It cannot be read.
        """
        path = self.folder / _PLAN
        try:
            plan = json.loads(read_text(path, largest=2**24))
            theirs, tiling = dict(plan["request"]), dict(plan["tiling"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StorageError(f"{path} cannot be read: {error}. Delete {self.folder}.") from error
        ours = self._request
        # Also what only they asked for.
        different = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
        if different:
            raise ArgumentError(
                f"{self.folder} holds parts of another run (its {', '.join(different)} differ). "
                "Delete that folder, or choose another file for the result."
            )
        return tiling

    def begin(self, tiling: Mapping[str, Any]) -> dict[str, Any]:
        """Write down how the picture is cut; what another process wrote first holds.

        Raises:
            StorageError: The folder cannot be written to.
        """
        make_folder(self.folder)
        leftovers.sweep(self.folder)
        leftovers.sweep(self.folder.parent)  # folders that were not deleted to the end
        plan = self.folder / _PLAN
        text = json.dumps({"request": self._request, "tiling": dict(tiling)}, indent=1)
        try:
            with replacing(plan.with_name(f"{_PLAN}.{os.getpid()}")) as temporary:
                temporary.write_text(text, encoding="utf-8")
                try:
                    os.link(temporary, plan)  # fails where somebody was first
                except FileExistsError:
                    pass
                except OSError:  # a file system without links
                    if not plan.exists():
                        shutil.copyfile(temporary, plan)
            plan.with_name(f"{_PLAN}.{os.getpid()}").unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{plan} could not be written: {error}.") from error
        found = self.tiling()
        assert found is not None  # written above
        return found

    def _path(self, index: int) -> Path:
        return self.folder / f"band-{index:06d}.npz"

    def has(self, index: int) -> bool:
        """Whether a band is done."""
        return self._path(index).exists()

    def write(self, index: int, values: Values) -> None:
        """Keep a finished band.

        Raises:
            StorageError: It cannot be written; what is there stays.
        """
        try:
            with replacing(self._path(index)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, values=values)
        except OSError as error:
            raise StorageError(
                f"{self._path(index)} could not be written: {error}. What is done is kept: the "
                "same call goes on from it."
            ) from error

    def read(self, index: int) -> Values:
        """A finished band.

        Raises:
            StorageError: It is missing or damaged.
        """
        path = self._path(index)
        try:
            # NumPy leaves a file that it opened, and that is no zip, open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return np.asarray(stored["values"])
        except Exception as error:  # zip, deflate and NumPy each fail in their own ways
            raise StorageError(
                f"{path} cannot be read: {error}. Delete it, and the same call computes it again."
            ) from error

    def remove(self) -> None:
        """Delete the folder: the result is whole.

        Under another name: for a process that reads the same parts all are there, or no folder.
        """
        renamed = self.folder.with_name(leftovers.temporary_name(self.folder.name))
        try:
            os.replace(self.folder, renamed)
        except OSError:  # another process was first, or has a file open that Windows then holds
            renamed = self.folder
        shutil.rmtree(renamed, ignore_errors=True)
