"""Worker processes for pictures: one that is killed is replaced, and nothing is lost.

multiprocessing's own pool hangs when a worker is killed, and that of concurrent.futures gives up.
Here each worker has a pipe of its own, so it is known which pictures it had; they are done again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from multiprocessing.connection import wait
from typing import Any

from ..errors import InputError, SegzooError, warn
from .child import Work, serve
from .jobs import Done, Failure, Job

#: A picture with which a worker ended so often, the later times with no other beside it, is given
#: up: it is what ends them.
_MOST_ENDS = 3
#: Workers that may end one after the other before one of them could begin.
_MOST_FALSE_STARTS = 3
#: How processes are started: by themselves, so that no lock or thread of this one is copied.
METHOD = "spawn"
#: Seconds that workers have to write what they began.
_GRACE = 10.0


class WorkerPool:
    """Does jobs in several processes.

    Args:
        work: What each of them does.
        count: How many there are.
        held: Jobs that a worker has at a time, so that it never waits for the next.
    """

    def __init__(self, work: Work, count: int, *, held: int = 8) -> None:
        self._work, self._count, self._held = work, count, held
        self._context: Any = multiprocessing.get_context(METHOD)
        self._workers: list[_Worker] = []
        #: Jobs of workers that ended, and how often a worker ended with each.
        self._again: deque[tuple[Job, int]] = deque()
        self._false_starts = 0
        self._warned: set[str] = set()  # workers find the same

    def run(self, jobs: Iterable[Job], done: Done) -> None:
        """Do the jobs; ``done`` is called in this process, in the order in which they are done.

        Whatever stops it (Ctrl-C too), the workers are ended, and what they have done is told.

        Raises:
            SegzooError: Workers cannot begin: the model cannot be loaded, say.
        """
        self._jobs, self._done = iter(jobs), done
        first = next(self._jobs, None)
        if first is None:
            return
        self._jobs = chain([first], self._jobs)
        try:
            self._workers = [self._started(index) for index in range(self._count)]
            self._feed()
            while any(worker.has for worker in self._workers):
                self._wait()
                self._feed()
        finally:
            self._stop()

    @property
    def numbers(self) -> list[int]:
        """The process ids of the workers."""
        return [int(worker.process.pid) for worker in self._workers]

    def _started(self, index: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve, args=(theirs, self._work, index), name=f"segzoo-{index}", daemon=True
        )
        process.start()
        theirs.close()  # so that its end is seen here when the process ends
        return _Worker(index, process, ours)

    def _feed(self) -> None:
        """Give jobs to workers that have room, one to each in turn: few are shared out evenly."""
        while sum(map(self._give, self._workers)):  # each has its turn, so not any()
            pass

    def _give(self, worker: _Worker) -> bool:
        """Give a worker one job, if there is one and it has room."""
        if worker.tested or len(worker.has) >= self._held:
            return False
        # With what a worker ended with, another has nothing else: if it ends too, we know.
        if self._again:
            if not worker.has:
                worker.give(*self._again.popleft())
                worker.tested = True
            return worker.tested
        job = next(self._jobs, None)
        if job is None:
            return False
        if job.image in worker.has:  # a picture with two targets: one by one
            self._again.append((job, 0))
            return False
        worker.give(job, 0)
        return True

    def _wait(self) -> None:
        """Take what workers tell, and replace those that ended."""
        for ready in wait([worker.connection for worker in self._workers]):
            worker = next(item for item in self._workers if item.connection is ready)
            if not self._listen(worker):
                self._replace(worker)

    def _listen(self, worker: _Worker) -> bool:
        """Take what a worker has told; False where it has ended."""
        for kind, content in worker.messages():
            if kind == "failed":
                raise SegzooError(content)
            if kind == "warned" and content not in self._warned:
                self._warned.add(content)
                warn(content)
            if kind == "ready":
                self._false_starts = 0
            if kind == "done":
                worker.has.pop(content.image, None)
                worker.tested = False
                self._done(content)
        return not worker.ended

    def _replace(self, worker: _Worker) -> None:
        code = worker.joined()
        if not worker.began:
            self._false_starts += 1
            if self._false_starts == _MOST_FALSE_STARTS:
                raise SegzooError(
                    f"Workers end before they begin ({_ended(code)}). There may be too little "
                    "memory for so many: use fewer --workers."
                )
        for job, ends in worker.has.values():
            if not worker.began:
                self._again.append((job, ends))
            elif ends + 1 < _MOST_ENDS:
                self._again.append((job, ends + 1))
            else:
                error = InputError(
                    f"{job.image}: {_MOST_ENDS} workers ended with it ({_ended(code)}): it may "
                    "need more memory than there is, or crash what decodes it."
                )
                self._done(Failure(job.image, str(error)))
        self._workers[self._workers.index(worker)] = self._started(worker.index)

    def _stop(self) -> None:
        """End the workers; those that have something are told to leave the rest."""
        for worker in self._workers:
            if worker.has or not worker.began:
                worker.process.terminate()
            else:
                worker.give_none()
        deadline = time.monotonic() + _GRACE
        for worker in self._workers:
            while not worker.ended and wait([worker.connection], deadline - time.monotonic()):
                for kind, content in worker.messages():
                    if kind == "done":
                        worker.has.pop(content.image, None)
                        self._done(content)
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
            worker.joined()
        self._workers = []


class _Worker:
    """A process, its pipe, and the jobs that it has: with each, how often workers ended with it."""

    def __init__(self, index: int, process: Any, connection: Any) -> None:
        self.index, self.process, self.connection = index, process, connection
        self.has: dict[Any, tuple[Job, int]] = {}
        self.began = self.ended = self.tested = False

    def give(self, job: Job, ends: int) -> None:
        """Send it a job. If it has ended meanwhile, the job is found among those that it had."""
        self.has[job.image] = (job, ends)
        with contextlib.suppress(OSError):
            self.connection.send(job)

    def give_none(self) -> None:
        """Tell it that there are no more."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def messages(self) -> Iterator[tuple[str, Any]]:
        """What it has told so far; what a killed one had sent is still there."""
        try:
            while self.connection.poll():
                kind, content = self.connection.recv()
                self.began = self.began or kind == "ready"
                yield kind, content
        except (EOFError, OSError):
            self.ended = True
        except pickle.UnpicklingError:  # after Ctrl-C in the middle of a message
            self.ended = True

    def joined(self) -> int:
        """Its exit code, now that it has ended."""
        self.process.join(_GRACE)
        self.process.kill()  # its pipe is closed, so it has nothing to say any more
        self.process.join()
        self.connection.close()
        return int(self.process.exitcode)


def _ended(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
