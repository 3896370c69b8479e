"""A request to stop, kept until the training is between two steps."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from multiprocessing.util import Finalize
from types import FrameType, TracebackType
from typing import Any

from ..processes import end_with_parent

#: Of a shell: 128 and the number of the signal.
_BASE = 128


class StopRequests:
    """Takes SIGTERM and Ctrl-C while it is active; whoever trains looks at :attr:`received`.

    A second Ctrl-C stops at once, as without it. Signals reach the main thread of a program only;
    in another thread nothing is taken.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: set by something other than Python, which cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    @staticmethod
    def stop(number: int) -> None:
        """End as the signal would have ended the program, now that everything is saved.

        Raises:
            KeyboardInterrupt: It was Ctrl-C.
            SystemExit: It was SIGTERM; the code is 143.
        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(_BASE + number)


def worker_setup() -> Callable[[int], None]:
    """For ``worker_init_fn``: a worker lives as long as the process that it works for, and no less.

    A terminal sends Ctrl-C, and a cluster SIGTERM, to all processes of a program; whoever trains
    decides when, and its workers still have work then. Where it is killed, they end with it; where
    its program ends while somebody still holds them, by the traceback of an error say, they take
    Python's SIGTERM, for whose effect it would else wait for ever.
    """
    return partial(_prepare, _leaving(os.getpid()))


@lru_cache
def _leaving(owner: int) -> Any:
    """What tells the workers of a process that its program ends."""
    flag = multiprocessing.RawValue("b", 0)
    # Called before SIGTERM is sent, and in the process that made it only.
    Finalize(None, setattr, args=(flag, "value", 1), exitpriority=0)
    return flag


def _prepare(leaving: Any, worker: int) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        if leaving.value:
            os._exit(0)  # torch tells of workers that end otherwise

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
