"""From a dataset to batches on their way to a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..data.collate import collate
from ..data.dataset import SegmentationData
from ..data.transforms import Augmentation, Augmented
from .items import Told, collated, raised
from .order import Batches, Order
from .processes import launched_here
from .recipe import Recipe
from .stopping import worker_setup

#: More workers than this do not make a loop faster.
_MOST_WORKERS = 8


def augmentation(recipe: Recipe) -> Augmentation:
    """What a recipe does to images before they are learned from."""
    return Augmentation(
        size=recipe.size,
        hflip=recipe.hflip,
        vflip=recipe.vflip,
        scale=recipe.scale,
        crop=recipe.crop,
        color=recipe.color,
        rare_class_crops=recipe.rare_class_crops,
    )


def augmented(data: SegmentationData, recipe: Recipe, ignore_index: int | None) -> Augmented:
    """A dataset that takes ``(epoch, index)``."""
    return Augmented(data, augmentation(recipe), seed=recipe.seed, ignore_index=ignore_index)


def batches(
    data: SegmentationData,
    recipe: Recipe,
    order: Order,
    *,
    process: int,
    start: tuple[int, int],
    epochs: int,
    workers: int,
    ignore_index: int | None,
    pin_memory: bool,
) -> Iterator[Any]:
    """All batches of a process from a place to the end of a training, over all epochs.

    Workers go on with the next epoch while the last one is judged. They draw nothing at random that
    does not follow from the key of an item, so that their number changes nothing.

    Args:
        start: Epoch, and batch in it.
        epochs: Where to end.
        workers: Processes that read and augment; 0 for this one.
    """
    epoch, batch = start
    loader: DataLoader[Any] = DataLoader(
        Told(augmented(data, recipe, ignore_index)),
        batch_sampler=Batches(order, process, epoch=epoch, batch=batch, epochs=epochs),
        num_workers=workers,
        collate_fn=partial(collated, collate=partial(collate, ignore_index=ignore_index)),
        pin_memory=pin_memory,
        worker_init_fn=worker_setup() if workers else None,
        # Else it takes a number from the program's own generator.
        generator=torch.Generator(),
    )
    return raised(iter(loader))


def default_workers() -> int:
    """Workers of a process: a processor each, as far as they reach for all that train here."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(cores // launched_here(), _MOST_WORKERS)
