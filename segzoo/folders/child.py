"""The other side of a worker process: jobs come through a pipe, and what became of them goes back.

Nothing here imports torch before a worker has begun: the pool looks after processes, not tensors.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DeviceError, SegzooError
from ..processes import end_with_parent

if TYPE_CHECKING:
    from .jobs import Done, Job, Outcome
    from .task import Task

#: Of a shell: 128 and the number of the signal.
_BASE = 128


class Work(Protocol):
    """What a worker process does; it is pickled to get there."""

    def prepare(self, index: int) -> Runs:
        """Load what is needed, in the worker with that number."""


class Runs(Protocol):
    """What does jobs."""

    def run(self, jobs: Iterator[Job | None], done: Done) -> None:
        """Do the jobs; None among them says that there are no more for the moment."""


@dataclass(frozen=True)
class Segmenting:
    """Pictures by a model.

    Args:
        task: What is done with them.
        expected: The fingerprint of the model.
        workers: How many processes share this machine.
    """

    task: Task
    expected: str
    workers: int

    def prepare(self, index: int) -> Runs:
        """Load the model. Its weights are mapped from the file, which all workers share."""
        import torch

        from .worker import PictureWorker

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, _cores() // self.workers))
        task = self.task
        if task.device == "auto" and torch.cuda.device_count() > 1:
            task = replace(task, device=f"cuda:{index % torch.cuda.device_count()}")
        return PictureWorker(task, expected=self.expected)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def serve(connection: Connection, work: Work, index: int) -> None:
    """Do jobs that come through a pipe until None comes, or it is closed."""
    end_with_parent()
    # A terminal sends Ctrl-C to all processes of a program; the pool decides, and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    inbox = _Inbox(connection)
    # One process talks to people.
    warnings.showwarning = lambda message, *_, **__: inbox.tell("warned", str(message))
    try:
        ready = work.prepare(index)
    except Exception as error:
        ours = isinstance(error, SegzooError)
        inbox.tell("failed", str(error) if ours else f"{type(error).__name__}: {error}")
        return
    inbox.tell("ready")
    try:
        ready.run(inbox, inbox.done)
    except BrokenPipeError:
        return  # nobody is there any more
    except DeviceError:
        return  # another process may have more of it: one that ends untold is replaced
    inbox.tell("ended")


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_BASE + number)


class _Inbox:
    """The jobs in a pipe, and the way back.

    A thread takes them out, so that neither side ever waits for the other to read. Where none is
    there, waiting for one would leave others undone: then None is given.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._begun = connection, 0
        self._sending = threading.Lock()  # threads that read pictures may warn
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        job: Any = True
        while job is not None:
            try:
                job = self._connection.recv()
            except (EOFError, OSError):
                job = None
            self._jobs.put(job)

    def __iter__(self) -> Iterator[Job | None]:
        return self

    def __next__(self) -> Job | None:
        if self._begun and self._jobs.empty():
            return None
        job = self._jobs.get()
        if job is None:
            raise StopIteration
        self._begun += 1
        return job

    def done(self, outcome: Outcome) -> None:
        """Tell what became of one."""
        self._begun -= 1
        self.tell("done", outcome)

    def tell(self, kind: str, content: object = None) -> None:
        """Send something to the pool."""
        with self._sending:
            self._connection.send((kind, content))
