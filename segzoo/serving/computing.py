"""The model and the one thread that computes with it; pictures of equal size go together."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..devices import device_of, is_lost
from ..errors import SegzooError
from ..prediction.masks import check_logits
from ..prediction.pixel_model import PixelModel, Predictor, pixel_model

T = TypeVar("T")


@dataclass(frozen=True)
class Segmented:
    """What the model finds in a picture.

    Args:
        mask: ``(H, W)``, the class of each pixel; uint8, or uint16 above 256 classes.
        scores: Of each class that the mask has the mean probability over its pixels; of others 0.
            None where they were not asked for.
    """

    mask: NDArray[Any]
    scores: tuple[float, ...] | None


@dataclass(frozen=True, eq=False)
class _Item:
    pixels: Tensor
    scored: bool
    found: asyncio.Future[Segmented]

    def goes_with(self, other: _Item) -> bool:
        """Whether one forward pass can take both."""
        return self.pixels.shape == other.pixels.shape and self.pixels.dtype == other.pixels.dtype


async def settled(future: asyncio.Future[T]) -> T:
    """What a future of a thread gives; whoever is cancelled meanwhile waits for its end first.

    A thread cannot be stopped, and what it works with is in use until it is done.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _end_of(future)
        raise


async def _end_of(future: asyncio.Future[Any]) -> None:
    """Wait for a future, whoever cancels that."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # nobody asks for it any more


class Computing:
    """A model and its thread.

    The thread takes the next pictures by itself when it is done with some: it does not wait until
    the event loop, which has answers to send and no processor of its own, comes to hand it them.

    Args:
        model: What is predicted with.
        batch: Pictures of equal size that it computes together at most.
        observe: Called with the number of pictures of each forward pass.

    Attributes:
        lost: Whether the GPU computes nothing more: only another process helps then.
    """

    def __init__(self, model: Predictor, batch: int, observe: Callable[[int], object]) -> None:
        self._model, self._batch, self._observe = model, batch, observe
        self.lost = False
        self._thread = ThreadPoolExecutor(1, "segzoo-model")
        #: Of the two below, which the event loop and the thread change.
        self._lock = threading.Lock()
        self._waiting: deque[_Item] = deque()
        self._working = False

    async def segment(self, pixels: Tensor, *, scored: bool) -> Segmented:
        """Segment a picture, in its turn.

        Args:
            pixels: ``(C, H, W)`` as ``predict`` takes them.
            scored: Whether scores are wanted.
        """
        item = _Item(pixels, scored, asyncio.get_running_loop().create_future())
        with self._lock:
            self._waiting.append(item)
            idle, self._working = not self._working, True
        if idle:
            self._thread.submit(self._work)
        try:
            return await asyncio.shield(item.found)
        except asyncio.CancelledError:
            if not self._withdrawn(item):
                await _end_of(item.found)
            raise

    def _withdrawn(self, item: _Item) -> bool:
        """Take back a picture whose turn has not come; whether that was so."""
        with self._lock:
            waits = item in self._waiting
            if waits:
                self._waiting.remove(item)
        return waits

    def _work(self) -> None:
        """In the thread, as long as pictures wait; whoever comes afterwards makes it begin anew."""
        while items := self._take():
            results = self._compute_each(items)
            for item, result in zip(items, results, strict=True):
                with suppress(RuntimeError):  # the loop has ended, and nobody waits there any more
                    item.found.get_loop().call_soon_threadsafe(_deliver, item.found, result)

    def _take(self) -> list[_Item]:
        """The one that waits longest, and those that go with it; none where nobody waits."""
        with self._lock:
            self._working = bool(self._waiting)
            if not self._waiting:
                return []
            items = [self._waiting.popleft()]
            for other in list(self._waiting):
                if len(items) < self._batch and other.goes_with(items[0]):
                    self._waiting.remove(other)
                    items.append(other)
        return items

    def _compute_each(self, items: Sequence[_Item]) -> list[Segmented | Exception]:
        """A picture that fails, by its own or for want of memory, does not fail the others."""
        try:
            return [*self._compute(items)]
        except Exception as error:
            if len(items) == 1:
                if not isinstance(error, SegzooError):
                    self.lost = self.lost or is_lost(device_of(self._model))
                return [error]
        return [found for item in items for found in self._compute_each([item])]

    def _compute(self, items: Sequence[_Item]) -> list[Segmented]:
        self._observe(len(items))
        pictures = torch.stack([item.pixels for item in items])
        with pixel_model(self._model, weights_are_known=True) as model:
            logits = model.answer(model.normalized(pictures), "classes")
            masks = model.mask(logits, "classes")
            return [
                Segmented(
                    mask.cpu().numpy().astype(np.uint8 if model.classes <= 256 else np.uint16),
                    _scores(model, one, mask) if item.scored else None,
                )
                for item, one, mask in zip(items, logits, masks, strict=True)
            ]


def _deliver(found: asyncio.Future[Segmented], result: Segmented | Exception) -> None:
    """In the event loop: what the thread has found, to whoever waits for it."""
    if found.done():  # cancelled with the loop
        return
    if isinstance(result, Exception):
        found.set_exception(result)
    else:
        found.set_result(result)


def _scores(model: PixelModel, logits: Tensor, mask: Tensor) -> tuple[float, ...]:
    """See :func:`mean_probabilities`; infinite logits have none, as in ``predict_probabilities``.

    Raises:
        InputError: A score is NaN: no threshold would let its segment pass.
    """
    scores = mean_probabilities(model, logits, mask)
    check_logits(torch.tensor(scores))
    return scores


def mean_probabilities(model: PixelModel, logits: Tensor, mask: Tensor) -> tuple[float, ...]:
    """Of each class the mean of its probability over the pixels that have it; 0 where none has.

    Args:
        model: How logits become probabilities.
        logits: ``(classes, H, W)``.
        mask: ``(H, W)``, the class of each pixel.
    """
    logits = logits.float()
    if model.channels == 1:
        of_one = model.as_probabilities(logits[None])[0, 0]
        winning = torch.where(mask > 0, of_one, 1 - of_one)
    else:  # a softmax, of the winning class only
        winning = (logits.max(dim=0).values - logits.logsumexp(dim=0)).exp()
    flat = mask.flatten()
    counts = flat.bincount(minlength=model.classes)
    sums = flat.bincount(winning.flatten().double(), minlength=model.classes)
    return tuple((sums / counts.clamp(min=1)).tolist())
