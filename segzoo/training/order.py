"""Which image comes when: a function of seed and epoch, the same however often it is begun."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

from ..data.transforms import keyed_generator

#: An image as it is seen in one epoch.
Key = tuple[int, int]


@dataclass(frozen=True)
class Order:
    """The batches of every epoch, for one of several processes.

    All batches are full: where the images do not fill the last one, it begins the epoch's order
    again. So no batch is too small for batch normalisation, and every process has as many as the
    others.

    Args:
        images: How many there are.
        batch_size: Images in a batch of one process.
        processes: How many share the images.
        seed: Of the order.
    """

    images: int
    batch_size: int
    processes: int = 1
    seed: int = 0

    @property
    def size(self) -> int:
        """Images in a batch of one process: fewer than asked for where there are not as many."""
        return min(self.batch_size, -(-self.images // self.processes))

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.images // (self.size * self.processes))

    def epoch(self, epoch: int, process: int = 0) -> list[list[Key]]:
        """The batches of an epoch for a process."""
        generator = keyed_generator(self.seed, epoch)
        order = torch.randperm(self.images, generator=generator).tolist()
        together = self.size * self.processes
        filled = [order[i % self.images] for i in range(self.batches * together)]
        return [
            [
                (epoch, index)
                for index in filled[start : start + together][process :: self.processes]
            ]
            for start in range(0, len(filled), together)
        ]


class Batches(Sampler[list[Key]]):
    """The batches from a place in an epoch to the end of the training, for a ``DataLoader``.

    Args:
        order: Of the images.
        process: Whose batches.
        epoch: The first epoch.
        batch: The first batch of it.
        epochs: Where to end.
    """

    def __init__(self, order: Order, process: int, *, epoch: int, batch: int, epochs: int) -> None:
        self.order, self.process = order, process
        self.start, self.epochs = (epoch, batch), epochs

    def __iter__(self) -> Iterator[list[Key]]:
        first, skipped = self.start
        for epoch in range(first, self.epochs):
            yield from self.order.epoch(epoch, self.process)[skipped if epoch == first else 0 :]

    def __len__(self) -> int:
        epoch, batch = self.start
        return max((self.epochs - epoch) * self.order.batches - batch, 0)
