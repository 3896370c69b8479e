"""The way of a picture: its upload, a seat, decoded, computed, encoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from torch import Tensor

from ..devices import lacks_memory
from ..errors import InputError
from ..folders.task import Reading
from ..prediction.pixel_model import Predictor
from ..threads import helpers
from .answers import Answer, answer, chosen_format
from .body import BodyKind, Receive, body_kind, check_length, receive_body, throw_away
from .computing import Computing, Segmented, settled
from .desk import Desk
from .limits import Limits
from .metrics import Metrics
from .pictures import decode
from .refused import RefusedError
from .upload import unpacked

T = TypeVar("T")


class Pipeline:
    """What stands between a request and its answer.

    Args:
        model: What is predicted with.
        names: Of its classes.
        limits: What is taken at most.
        reading: How pictures are read.
        metrics: What is told to Prometheus.

    Attributes:
        limits: As given.
        metrics: As given.
        desk: Places and seats.
    """

    def __init__(
        self,
        model: Predictor,
        names: Sequence[str],
        *,
        limits: Limits,
        reading: Reading,
        metrics: Metrics,
    ) -> None:
        self.limits, self.metrics = limits, metrics
        self.desk = Desk(limits, metrics)
        self._names, self._reading, self._bands = tuple(names), reading, model.in_channels
        fixed = getattr(model, "size", None)  # of a file that was exported for one size
        self._size: tuple[int, int] | None = tuple(fixed[1:]) if fixed else None
        self._computing = Computing(model, limits.batch, metrics.computed)
        self._workers = helpers(limits.seats, "segzoo-pictures")

    @property
    def lost(self) -> bool:
        """Whether the GPU computes nothing more: no picture will be answered."""
        return self._computing.lost

    async def answer(
        self, receive: Receive, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> Answer:
        """The answer to a request, whose body has not come yet.

        Args:
            receive: ASGI's.
            headers: Of the request.
            query: What stands in its address.

        Raises:
            RefusedError: With the status and the sentence of the answer.
            ClientGoneError: The client hung up.
        """
        most, seconds = self.limits.max_bytes, self.limits.upload_timeout
        try:
            form = chosen_format(query)
            kind = body_kind(headers)
            most = kind.most(self.limits.max_bytes)
            check_length(headers, most)
            self.desk.enter()
        except RefusedError:
            if "expect" not in headers:  # a client that asks before it sends is not asked to
                await throw_away(receive, most=most, seconds=seconds)
            raise
        try:
            with self.metrics.stage("upload"):
                body = await receive_body(receive, most=most, seconds=seconds)
        except BaseException as error:
            self.desk.leave()  # before what is left is thrown away
            if isinstance(error, RefusedError) and error.unread:
                await throw_away(receive, most=most, seconds=seconds)
            raise
        return await self.desk.answered(self._work(kind, body, form), receive)

    async def _work(self, kind: BodyKind, body: bytes, form: str) -> Answer:
        async with self.desk.seat():
            with self.metrics.stage("decode"):
                threshold, pixels = await self._in_thread(partial(self._decode, kind, body))
            with self.metrics.stage("compute"):
                found = await self._compute(pixels, scored=form == "json")
            with self.metrics.stage("encode"):
                given = await self._in_thread(
                    partial(answer, found, form, names=self._names, threshold=threshold)
                )
        self.metrics.segmented(found.mask.size)
        return given

    def _decode(self, kind: BodyKind, body: bytes) -> tuple[float, Tensor]:
        upload = unpacked(kind, body, max_bytes=self.limits.max_bytes)
        pixels = decode(upload.picture, self._bands, self._reading)
        height, width = pixels.shape[1:]
        if self._size is not None and self._size != (height, width):
            raise RefusedError(
                422,
                f"The picture has {width}x{height} pixels, and this server's model takes "
                f"{self._size[1]}x{self._size[0]} only.",
            )
        return upload.threshold, pixels

    async def _compute(self, pixels: Tensor, *, scored: bool) -> Segmented:
        try:
            return await self._computing.segment(pixels, scored=scored)
        except InputError as error:
            raise RefusedError(422, str(error)) from error
        except Exception as error:
            if not lacks_memory(error):
                raise
            raise RefusedError(
                413,
                f"There is not enough memory for a picture of {pixels.shape[2]}x{pixels.shape[1]} "
                "pixels. Send a smaller one.",
            ) from error

    async def _in_thread(self, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        return await settled(loop.run_in_executor(self._workers, call))
