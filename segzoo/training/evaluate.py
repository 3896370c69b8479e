"""Scores of a model on pictures whose masks are known, at the masks' own size."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .. import checks
from ..data.class_coding import ClassCoding
from ..data.dataset import SegmentationData
from ..data.mask_coding import MaskCoding
from ..data.open_pairs import open_pairs
from ..data.resample import resize_image
from ..data.splits import DataSplits, coding_of, names_of
from ..devices import choose_device
from ..errors import ArgumentError, InputError
from ..nn.sharing import in_eval_mode
from ..prediction.inputs import check_finite
from ..prediction.masks import Described, Segments, check_logits
from .items import as_pair, check_item, named
from .score_values import Scores
from .scores import ScoreMeter
from .stopping import worker_setup

PathLike = str | os.PathLike[str]


class Scored(Segments, Described, Protocol):
    """What can be scored: a model, an optimised one, or anything like them."""


def evaluate(
    model: Scored,
    data: SegmentationData | DataSplits | PathLike | tuple[PathLike, PathLike],
    *,
    ignore_index: int | None = None,
    batch_size: int = 1,
    size: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
    workers: int = 0,
    progress: bool = False,
) -> Scores:
    """Score a model on pictures whose masks are known.

    >>> model = segzoo.Unet("resnet18", classes=2)
    >>> data = [(torch.zeros(3, 40, 50, dtype=torch.uint8), torch.zeros(40, 50).long())]
    >>> segzoo.evaluate(model, data).pixels
    2000

    It predicts in eval mode whatever mode the model is in, and leaves it there. Masks keep their
    size: logits are resized to it bilinearly before the largest is taken.

    Args:
        model: Of segzoo, or what :func:`segzoo.optimize` made of one.
        data: Anything with a length and items of (image ``(C, H, W)`` of raw values, mask
            ``(H, W)`` of classes); what :func:`segzoo.open_data` gives, of which ``test`` is
            scored, or ``val`` where there is none; a folder or table as ``open_data`` takes it, or
            two folders, (images, masks).
        ignore_index: The value of void; None for that of the data, if it has one.
        batch_size: How many pictures of one size go through the model at a time.
        size: ``(height, width)`` to which pictures are resized for the model; None for their own.
        device: Where to compute; None for where the model is. Elsewhere a copy computes.
        workers: Processes that read files; 0 reads here.
        progress: Show a bar on stderr.

    Returns:
        The scores, named by the classes' names.

    Raises:
        ArgumentError: An argument out of its range, or data of other classes, or with other names
            for them, than the model's.
        InputError: A picture or mask that cannot be used, by its name.
    """
    part, void, names = _opened(model, data, ignore_index)
    meter = ScoreMeter(max(model.classes, 2), ignore_index=void)
    measure(
        model,
        part,
        meter,
        batch_size=batch_size,
        size=size,
        device=device,
        workers=workers,
        progress=progress,
    )
    return meter.compute(names or names_of_classes(model))


@torch.no_grad()
def measure(
    model: Scored,
    data: SegmentationData,
    meter: ScoreMeter,
    *,
    batch_size: int = 1,
    size: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
    workers: int = 0,
    progress: bool = False,
) -> None:
    """Count a model's masks in a meter: the part of :func:`evaluate` that others can build on.

    Args:
        model: As for :func:`evaluate`.
        data: Its items are counted under their names, or their numbers.
        meter: What counts.
        batch_size: As for :func:`evaluate`.
        size: As there.
        device: As there.
        workers: As there.
        progress: As there.

    Raises:
        InputError: A picture or mask that cannot be used, by its name.
    """
    checks.integer("batch_size", batch_size, minimum=1, maximum=2**20)
    checks.integer("workers", workers, minimum=0, maximum=1024)
    if size is not None:
        size = _size(size)
    items = _Items(data, model.in_channels, size)
    loader: DataLoader[Any] = DataLoader(
        items,
        batch_size=None,
        num_workers=min(workers, len(items)),
        worker_init_fn=worker_setup() if workers else None,
        generator=torch.Generator(),  # the seeds of workers are not drawn from the global state
    )
    with (
        _ready(model, device) as (ready, weight),
        tqdm(total=len(items), desc="evaluating", unit="picture", disable=not progress) as bar,
    ):
        for batch in _batches(loader, batch_size):
            names = [item.name for item in batch]
            try:
                images = torch.stack([item.image for item in batch])
                check_finite(images)
                logits = _logits(ready, images, weight)
                check_logits(logits.amax())
            except InputError as error:
                raise InputError(f"{', '.join(names)}: {error}") from error
            masks = torch.stack([item.mask for item in batch])
            meter.update(as_counted(logits, masks, model), masks, names)  # which names them itself
            bar.update(len(batch))


def names_of_classes(model: Scored) -> tuple[str, ...] | None:
    """A name for each row of the scores: one logit stands for two classes."""
    names = model.class_names
    return names if names is None or model.classes > 1 else ("background", *names)


def check_class_names(model: Scored, names: Sequence[str] | None, remedy: str) -> None:
    """Raise where data has other names for the model's classes, or the same in another order.

    Args:
        model: Whatever has classes; one logit stands for what is not background.
        names: The data's, as many as the model's; None for none.
        remedy: What to do, for the message.

    Raises:
        ArgumentError: A class has two names.
    """
    mine = names_of_classes(model)
    if not mine or not names:
        return
    other = [i for i in range(model.classes == 1, len(mine)) if mine[i] != names[i]]
    if other:
        ours, theirs = (checks.shown(either[other[0]]) for either in (mine, names))
        more = f", and {len(other) - 1} more have two names" if len(other) > 1 else ""
        raise ArgumentError(
            f"Class {other[0]} is {theirs} in the data and {ours} in the model{more}: the one "
            f"would stand for the other. {remedy}"
        )


class _Item(NamedTuple):
    name: str
    image: Tensor
    mask: Tensor
    error: str


class _Items(Dataset[_Item]):
    """A dataset's items as the model takes them; what cannot be read says so later, by its name."""

    def __init__(self, data: SegmentationData, bands: int, size: tuple[int, int] | None) -> None:
        self.data, self.bands, self.size = data, bands, size
        self.names = names_of(data)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> _Item:
        name = self.names[index]
        try:
            image, mask = as_pair(self.data[index])
            check_item(image, mask, self.bands)
            return _Item(
                name, image if self.size is None else resize_image(image, self.size), mask, ""
            )
        except InputError as error:  # of a worker only the text would arrive, below a traceback
            return _Item(name, torch.empty(0), torch.empty(0), str(error))


def _batches(items: Iterator[_Item] | DataLoader[Any], batch_size: int) -> Iterator[list[_Item]]:
    """Neighbours of one size, at most so many at once: others are never kept waiting."""

    def sizes(item: _Item) -> tuple[torch.Size, torch.Size]:
        if item.error:
            raise InputError(named(item.name, item.error))
        return item.image.shape, item.mask.shape

    for _, same in groupby(items, sizes):
        batch: list[_Item] = []
        for item in same:
            batch.append(item)
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


@contextmanager
def _ready(model: Scored, device: str | torch.device | None) -> Iterator[tuple[Scored, Tensor]]:
    """The model in eval mode on a device, with a tensor of its device and precision."""
    if not isinstance(model, nn.Module):
        yield model, torch.empty(0)
        return
    weight = next(model.parameters(), torch.empty(0))
    here = torch.device(getattr(model, "device", weight.device))
    there = here if device is None else choose_device(str(device))
    if there != here:
        model = copy.deepcopy(model).to(there)
    weight = torch.empty(0, device=there, dtype=getattr(model, "dtype", weight.dtype))
    with in_eval_mode(model) as ready:
        yield ready, weight


def _logits(model: Scored, images: Tensor, weight: Tensor) -> Tensor:
    return model(model.normalization(images.to(weight.device)).to(weight.dtype))


def as_counted(logits: Tensor, masks: Tensor, model: Scored) -> Tensor:
    """Outputs as a meter counts them: at the size of masks; classes where one output is no logit.

    Args:
        logits: ``(N, K, h, w)``, of the model.
        masks: ``(N, H, W)``.
        model: Whose outputs they are.

    Returns:
        ``(N, K, H, W)``, or ``(N, H, W)`` of integers.
    """
    if logits.shape[-2:] != masks.shape[-2:]:
        logits = F.interpolate(logits.float(), size=masks.shape[-2:], mode="bilinear")
    if model.classes == 1 and model.threshold != 0:
        return (logits[:, 0] > model.threshold).long()
    return logits


def _opened(
    model: Scored, data: Any, ignore_index: int | None
) -> tuple[SegmentationData, int | None, tuple[str, ...] | None]:
    """What is scored, its void, and its classes' names."""
    ignore_index = checks.void("ignore_index", ignore_index)
    if not isinstance(getattr(model, "classes", None), int):
        raise ArgumentError(
            "evaluate takes a model: segzoo.from_pretrained loads one from a folder; got "
            f"{checks.shown(model)}."
        )
    classes = max(model.classes, 2)
    if isinstance(data, (str, os.PathLike)):
        data = (data, None)
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], (str, os.PathLike)):
        images, masks = data
        part = open_pairs(
            images, masks, classes=classes, ignore_index=ignore_index, channels=model.in_channels
        )
        return part, ignore_index, None
    said = said_of(data)
    known = said.coding.ignore_index
    remedy = "Open the data with the model's names in their order, or with their number alone."
    check_classes(model, said, remedy)
    if isinstance(data, DataSplits):
        data = data.val if data.test is None else data.test
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ArgumentError(
            "data must have a length and items of (image, mask), or be a folder, two folders or "
            f"what segzoo.open_data gives; got {checks.shown(data)}."
        )
    if None not in (known, ignore_index) and known != ignore_index:
        raise ArgumentError(f"ignore_index={ignore_index}, but the void of the data is {known}.")
    return data, known if ignore_index is None else ignore_index, said.names


def said_of(data: object) -> ClassCoding:
    """Classes, their names and void, as far as data says them of itself."""
    if isinstance(data, DataSplits):
        return ClassCoding(MaskCoding(data.classes, data.ignore_index), data.class_names)
    return coding_of(data)


def check_classes(model: Scored, said: ClassCoding, remedy: str) -> None:
    """Raise where data says of itself that it has other classes than a model.

    Args:
        model: Whatever has classes.
        said: Of :func:`said_of`.
        remedy: What to do about other names, for the message.

    Raises:
        ArgumentError: Another number of classes, or other names.
    """
    if said.coding.classes not in (None, max(model.classes, 2)):
        raise ArgumentError(
            f"The data has {said.coding.classes} classes, the model {model.classes}."
        )
    check_class_names(model, said.names, remedy)


def _size(size: Sequence[int]) -> tuple[int, int]:
    sides = checks.sequence(
        "size", size, lambda name, side: checks.integer(name, side, minimum=1, maximum=65535)
    )
    if len(sides) != 2:
        raise ArgumentError(f"size must be (height, width), got {checks.shown(size)}.")
    return sides[0], sides[1]
