"""Pictures one after the other: some are read and others written while the model computes.

Reading and writing wait for disks, and their codecs leave Python's lock to others, so threads do
for them. What is held at any time is bounded: a few pictures that are read, a few masks that are to
be written. Pictures above 16 megapixels are cut into tiles, so none of these is larger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from torch import Tensor

from ..devices import device_of, is_lost
from ..errors import DeviceError, SegzooError
from ..prediction.masks import Segmenter
from ..threads import helpers
from .jobs import Done, Failure, Job, Prediction
from .picture import Read, computed, in_tiles, read, told, written
from .task import Task

_Result = TypeVar("_Result")

#: Threads that read, and threads that write.
_READERS, _WRITERS = 2, 2
#: Pictures that are read ahead beyond a batch, and masks that may wait to be written.
_AHEAD, _WAITING = 3, 4


class Pipeline:
    """Does jobs with one model.

    Args:
        model: What gives the masks. It is called in the thread that calls :meth:`run`.
        task: What is done with each picture.
        alone: There is one picture only, and its failure is raised.
    """

    def __init__(self, model: Segmenter, task: Task, *, alone: bool = False) -> None:
        self._model, self._task, self._alone = model, task, alone
        self._least = task.tiles.min_confidence
        self._reading: deque[tuple[Job, Future[Read]]] = deque()
        self._grouped: dict[tuple[object, ...], list[Read]] = {}
        self._writing: deque[tuple[Job, Future[Prediction]]] = deque()
        #: What the device said when it was lost.
        self._lost: Exception | None = None

    @property
    def ahead(self) -> int:
        """Pictures that it wants to have at hand."""
        return self._task.batch_size + _AHEAD

    def run(self, jobs: Iterable[Job | None], done: Done) -> None:
        """Do the jobs; a picture that fails does not stop the others.

        Whatever stops it (Ctrl-C too), what is written is told before.

        Args:
            jobs: None among them says that there are no more for the moment: what was begun goes
                on meanwhile.
            done: Called with what became of each picture, in the thread that called this.

        Raises:
            SegzooError: The only picture failed.
            DeviceError: The GPU computes nothing more: all pictures that are left would fail.
        """
        self._done = done
        self._readers = helpers(_READERS, "segzoo-read")
        self._writers = helpers(_WRITERS, "segzoo-write")
        try:
            for job in jobs:
                if job is not None:
                    future = self._readers.submit(read, job, self._task, self._model.in_channels)
                    self._reading.append((job, future))
                    if len(self._reading) < self.ahead:
                        continue
                self._step()
            while self._reading or self._grouped or self._writing:
                self._step()
        finally:
            self._readers.shutdown(wait=True, cancel_futures=True)
            self._reading.clear()
            self._grouped.clear()
            self._writers.shutdown(wait=True)
            while self._writing:
                self._tell_oldest()

    def _step(self) -> None:
        """Go on with what was begun first: a picture that is read, a batch, a file."""
        self._go_on()
        if self._lost is not None:
            said = str(self._lost).partition("\n")[0]
            raise DeviceError(
                f"{device_of(self._model)} computes nothing more for this process: {said}. Run it "
                "again: with the same manifest, or --skip-existing, it goes on."
            ) from self._lost

    def _go_on(self) -> None:
        if self._reading:
            job, future = self._reading.popleft()
            item = self._tried(job, future.result)
            if item is not None:
                self._take(item)
        elif self._grouped:
            self._compute(next(iter(self._grouped)))
        elif self._writing:
            self._tell_oldest()
        while self._writing and (len(self._writing) > _WAITING or self._writing[0][1].done()):
            self._tell_oldest()

    def _take(self, item: Read) -> None:
        if item.pixels is None:
            outcome = self._tried(
                item.job,
                lambda: in_tiles(item, self._model, self._task),
                tile=self._task.tiles.tile,
            )
            if outcome is not None:
                self._done(outcome)
            return
        group = self._grouped.setdefault(item.kind, [])
        group.append(item)
        if len(group) == self._task.batch_size:
            self._compute(item.kind)
        elif sum(map(len, self._grouped.values())) > 2 * self._task.batch_size:
            self._compute(next(iter(self._grouped)))  # of many sizes, the one that waits longest

    def _compute(self, kind: tuple[object, ...]) -> None:
        batch = self._grouped.pop(kind)
        if len(batch) > 1:
            try:
                masks = computed(batch, self._model, self._least)
            except Exception:  # of one of them perhaps: each by itself
                for item in batch:
                    if self._lost is None:
                        self._compute_one(item)
                return
            for item, mask in zip(batch, masks, strict=True):
                self._write(item, mask)
            return
        self._compute_one(batch[0])

    def _compute_one(self, item: Read) -> None:
        masks = self._tried(item.job, lambda: computed([item], self._model, self._least))
        if masks is not None:
            self._write(item, masks[0])

    def _write(self, item: Read, mask: Tensor) -> None:
        void = self._least is not None
        future = self._writers.submit(written, item, mask, self._model, void=void)
        self._writing.append((item.job, future))

    def _tell_oldest(self) -> None:
        job, future = self._writing.popleft()
        outcome = self._tried(job, future.result)
        if outcome is not None:
            self._done(outcome)

    def _tried(
        self, job: Job, step: Callable[[], _Result], *, tile: int | None = None
    ) -> _Result | None:
        """What a step gives, or None where it failed, which is told; ``tile`` as there."""
        try:
            return step()
        except Exception as error:
            failure = told(job, error, tile=tile)
            if self._alone:
                raise failure from error
            self._done(Failure(job.image, str(failure)))
            if not isinstance(error, SegzooError) and is_lost(device_of(self._model)):
                self._lost = error
            return None
