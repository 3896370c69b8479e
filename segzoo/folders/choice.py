"""Which of many pictures are to be done: not those that are, nor what would replace something."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from ..errors import ArgumentError
from .jobs import Done, Failure, Job, check_paths
from .manifest import Manifest
from .task import Task


class Chosen:
    """The jobs that are to be done.

    Args:
        planned: All of them.
        task: What is done with each.
        done: Told of those that are refused.
        skip_existing: Leave out those whose results are there.
        record: Leave out those that were done, and whose results are there.
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
        """Whether the results of a picture exist; it is only opened where that is not plain."""
        overlays = self._task.overlays
        if any(outputs.exist() for outputs in job.possible_outputs(overlays=overlays)):
            return True
        if not job.outputs(".png").exist():
            return False
        return job.outputs(self._task.ending(job.image), overlays=overlays).exist()
