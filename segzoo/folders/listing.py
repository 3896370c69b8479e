"""Folders of any number of pictures: one after the other, without a list of them all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data.pictures import is_picture_name
from ..errors import ArgumentError, InputError
from ..files.local import closed, is_folder, is_there
from .jobs import Job
from .names import FolderNames, Names
from .shards import Shard


class FolderJobs:
    """The jobs of folders and all that lies in them, in the order of their names.

    The results of ``scans/a/b.jpg`` go to ``out/a/b.png``: subfolders are mirrored. Only the names
    of one folder are held at a time. Links to folders are not followed.

    Args:
        paths: Folders and files.
        out: The folder of the results; none of the folders may hold it.
        shard: The part to give; None for all. Names are those that they have among all.

    Attributes:
        left_out: How many files were passed over, by their ending; complete once all is iterated.
        unreadable: Folders that could not be looked into, with the reason; likewise.

    Raises:
        InputError: A path that does not exist.
        ArgumentError: Results would lie among the pictures.
    """

    def __init__(self, paths: Sequence[Path], out: Path, *, shard: Shard | None = None) -> None:
        self._paths, self._out, self._shard = paths, out, shard
        self.left_out: Counter[str] = Counter()
        self.unreadable: list[str] = []
        self._names: dict[Path, Names] = {}
        #: Where the folders really lie, and the files that were named.
        self._roots: dict[Path, Path] = {}
        self._files: dict[Path, Path] = {}
        for path in paths:
            if not is_there(path):
                raise InputError(f"There is no file {path}.")
            real = self._roots if is_folder(path) else self._files
            real[Path(os.path.realpath(path))] = path
        self._check_folder(out)

    def __iter__(self) -> Iterator[Job]:
        for root in self._paths:
            if root.is_file():
                yield from self._plan(root.parent, [root.name], self._out, "")
                continue
            for folder, below, names in os.walk(root, onerror=self._tell):
                below.sort()
                below[:] = [name for name in below if not name.startswith(".")]
                # In place: of a million names there is one list.
                names[:] = [name for name in names if self._wanted(name)]
                names.sort()
                inside = Path(folder).relative_to(root)
                prefix = "" if inside == Path() else f"{inside.as_posix()}/"
                # A subfolder of the same name as one above leads back: of in/in/ to out/in/.
                self._check_folder(self._out / inside)
                yield from self._plan(Path(folder), names, self._out / inside, prefix)

    def _plan(self, folder: Path, files: list[str], target: Path, prefix: str) -> Iterator[Job]:
        if len(self._paths) > 1:  # two of them may have folders of the same name
            names = self._names.setdefault(target, Names())
        else:
            names = FolderNames(map(_stem, files), len(files))
        for file in files:
            name = names.take(_stem(file))
            if self._shard is None or self._shard.holds(prefix + file):
                job = Job(folder / file, target / name)
                self._check_files(job)
                yield job

    def _check_folder(self, target: Path) -> None:
        """Raise for a folder of results that lies in one of pictures."""
        real = Path(os.path.realpath(target))
        for place in (real, *real.parents):
            if place in self._roots:
                raise ArgumentError(
                    f"{target} lies in {self._roots[place]}, so results would be among the "
                    "pictures. Choose another folder for -o."
                )

    def _check_files(self, job: Job) -> None:
        """Raise for a result that is one of the pictures that were named."""
        if not self._files:
            return
        for path in (path for outputs in job.possible_outputs() for path in outputs.paths):
            if Path(os.path.realpath(path)) in self._files:
                raise ArgumentError(
                    f"{path} is one of the pictures to segment and may be replaced by a result. "
                    "Choose another folder for -o."
                )

    def _wanted(self, name: str) -> bool:
        if name.startswith("."):
            return False
        if not is_picture_name(name):
            self.left_out[Path(name).suffix.lower() or "no ending"] += 1
            return False
        return True

    def _tell(self, error: OSError) -> None:
        self.unreadable.append(closed(error.filename, error))


def _stem(name: str) -> str:
    return Path(name).stem


def left_out_of(paths: Sequence[Path]) -> tuple[Counter[str], int]:
    """What :func:`segzoo.data.pictures.find_pictures` passes over: files by ending, and folders."""
    endings: Counter[str] = Counter()
    folders = 0
    for path in paths:
        if not is_folder(path):
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders += 1
                elif not is_picture_name(entry.name):
                    endings[Path(entry.name).suffix.lower() or "no ending"] += 1
    return endings, folders


def in_words(endings: Counter[str], folders: int = 0) -> str | None:
    """One line on what was left out; None where nothing was.

    >>> in_words(Counter({".heic": 10, ".dng": 2}), 3)
    'Left out: 12 files that are no pictures (.heic 10, .dng 2), 3 subfolders (see --recursive).'
    """
    parts = []
    count = sum(endings.values())
    if count:
        ranked = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
        most = ", ".join(f"{ending} {number}" for ending, number in ranked[:5])
        more = ", ..." if len(endings) > 5 else ""
        plural = "s that are no pictures" if count > 1 else " that is no picture"
        parts.append(f"{count:,} file{plural} ({most}{more})")
    if folders:
        parts.append(f"{folders} subfolder{'s' if folders > 1 else ''} (see --recursive)")
    return f"Left out: {', '.join(parts)}." if parts else None
