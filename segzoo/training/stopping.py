"""A request to stop, kept until the training is between two steps."""

from __future__ import annotations

import signal
import threading
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


def prepare_worker(worker: int) -> None:
    """For ``worker_init_fn``: a worker lives as long as the process that it works for, and no less.

    A terminal sends Ctrl-C, and a cluster SIGTERM, to all processes of a program; whoever trains
    decides when, and its workers still have work then. Where it is killed, they end with it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
