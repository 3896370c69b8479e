"""Which of many pictures are to be done: not those that are, nor what would replace something."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain

from ..errors import ArgumentError
from ..files.local import is_there
from .jobs import Done, Failure, Job, check_paths
from .manifest import Manifest
from .task import Task


class Chosen:
    """The jobs that are to be done.

    Args:
        planned: All of them.
        task: What is done with each.
        done: Told of those that are refused.
        skip_existing: Leave out those whose masks are there. A mask is written last, so nothing is
            missing that was to be beside it; and where a run did without overlays, or a person has
            mended the mask since, it stays.
        record: Leave out those that were done, and whose masks are there.
        check: Refuse those that might replace a file. That is for jobs that others do: these may
            be killed and replaced, and cannot tell what was there before from what one of them
            wrote.

    Attributes:
        skipped: How many were left out; complete once all is iterated.
    """

    def __init__(
        self,
        planned: Iterable[Job],
        task: Task,
        done: Done,
        *,
        skip_existing: bool = False,
        record: Manifest | None = None,
        check: bool = False,
    ) -> None:
        self._planned, self._task, self._done = planned, task, done
        self._skip_existing, self._record, self._check = skip_existing, record, check
        self.skipped = 0

    def __iter__(self) -> Iterator[Job]:
        for job in self._planned:
            may_be_done = self._skip_existing or (
                self._record is not None and self._record.is_done(job)
            )
            if may_be_done and self._is_there(job):
                self.skipped += 1
                continue
            if self._check:
                possible = job.possible_outputs(overlays=self._task.overlays)
                paths = chain.from_iterable(outputs.paths for outputs in possible)
                try:
                    check_paths([path for path in paths if path != job.image], [], overwrite=False)
                except ArgumentError as error:
                    self._done(Failure(job.image, f"{job.image}: {error}"))
                    continue
            yield job

    def _is_there(self, job: Job) -> bool:
        """Whether the mask of a picture exists; it is only opened where that is not plain."""
        whole, placed = job.possible_outputs(overlays=self._task.overlays)
        # Beside its results a picture may have the name of one.
        if whole.exist() or (placed.exist() and not _same(placed.mask, job.image)):
            return True
        if not is_there(whole.mask):
            return False
        return is_there(job.outputs(self._task.ending(job.image)).mask)


def _same(path: os.PathLike[str], other: os.PathLike[str]) -> bool:
    """Whether both are one file, through links as well."""
    return os.path.realpath(path) == os.path.realpath(other)
