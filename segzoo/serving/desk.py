"""Who may come in, who may sit down, and for how long: places, seats and time-outs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from .body import Receive
from .limits import Limits
from .metrics import Metrics
from .refused import ClientGoneError, RefusedError

T = TypeVar("T")

#: Weight of the newest picture in the mean of seconds that a picture takes.
_NEWEST = 0.1


class Desk:
    """Places for requests and seats for pictures in work.

    Args:
        limits: How many there are, and how long each may take.
        metrics: Told of every change.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._seats = asyncio.Semaphore(limits.seats)
        self._places_taken = self._seats_taken = 0
        self._seconds = 0.0  # that a picture is in work, in the mean

    @property
    def full(self) -> bool:
        """Whether the next one would be refused."""
        return self._places_taken >= self._limits.places

    def enter(self) -> None:
        """Take a place; :meth:`leave` gives it back.

        Raises:
            RefusedError: 503 where none is free, with the seconds after which one should be.
        """
        if self.full:
            again = self._seconds * self._limits.places / self._limits.seats / 2
            raise RefusedError(
                503,
                f"The server is busy: all {self._limits.places} places are taken. Try again in a "
                "while.",
                {"Retry-After": str(min(max(math.ceil(again), 1), 600))},
            )
        self._places_taken += 1
        self._tell()

    def leave(self) -> None:
        """Give a place back."""
        self._places_taken -= 1
        self._tell()

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """A seat, as soon as one is free; whoever came first sits down first."""
        with self._metrics.stage("wait"):
            await self._seats.acquire()
        self._seats_taken += 1
        self._tell()
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            weight = _NEWEST if self._seconds else 1.0
            self._seconds += weight * (seconds - self._seconds)
            self._seats_taken -= 1
            self._seats.release()
            self._tell()

    async def answered(self, work: Coroutine[Any, Any, T], receive: Receive) -> T:
        """What a piece of work gives, in time and while somebody waits for it.

        Whoever works in vain is cancelled. The place is given back when the work has really ended:
        its thread cannot be stopped, and keeps its seat until then.

        Raises:
            RefusedError: 504 after ``timeout``.
            ClientGoneError: The client hung up.
        """
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait(
                (task, gone), timeout=self._limits.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if gone.done():
                raise ClientGoneError
            raise RefusedError(
                504,
                f"There was no answer within {self._limits.timeout:g} seconds. Send a smaller "
                "picture, or try again when the server has less to do.",
            )
        finally:
            gone.cancel()
            task.cancel()

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self.leave()
        if not task.cancelled():
            task.exception()  # nobody may be there to ask for it

    def _tell(self) -> None:
        self._metrics.taken(self._places_taken, self._seats_taken)


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
