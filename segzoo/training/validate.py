"""Scores on validation data, each image by one process only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..architectures.base import SegmentationModel
from ..data.dataset import SegmentationData
from ..data.resample import resize_image
from ..data.splits import names_of
from .evaluate import as_counted
from .features import FeatureCache
from .items import Told, collated, raised
from .precision import autocast
from .processes import Processes
from .score_values import Scores
from .scores import ScoreMeter
from .stopping import worker_setup

#: An image with its mask and its name.
Item = tuple[Tensor, Tensor, str]


class Shard(Dataset[Any]):
    """The items of a dataset that one of several processes scores, images at the model's size.

    Args:
        data: The whole dataset.
        processes: Who shares it.
        size: ``(height, width)`` of images; masks keep theirs. None for images as they are.
    """

    def __init__(
        self, data: SegmentationData, processes: Processes, size: tuple[int, int] | None
    ) -> None:
        self.data, self.size = data, size
        self.names = names_of(data)
        self.indices = range(processes.index, len(data), processes.count)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int, /) -> Item:
        index = self.indices[place]
        image, mask = self.data[index]
        if self.size is not None and tuple(image.shape[-2:]) != self.size:
            image = resize_image(image, self.size)
        return image, mask, self.names[index]


class Validator:
    """Scores models on one dataset, again and again, with the same workers.

    Args:
        data: What is judged on.
        processes: Who takes part: each scores a share, and all have the result.
        classes: Number of classes, 2 where the model has one logit.
        class_names: One for each class, or None.
        ignore_index: Void in masks.
        size: To which images are resized; masks keep their size.
        batch_size: Images at a time.
        pixels: Of the images that a model gets at a time, at most, unless one has more; None for
            any number.
        workers: Processes that read.
        precision: Of the model's forward.
        channels_last: How images lie in memory.
    """

    def __init__(
        self,
        data: SegmentationData,
        processes: Processes,
        *,
        classes: int,
        class_names: tuple[str, ...] | None,
        ignore_index: int | None,
        size: tuple[int, int] | None,
        batch_size: int,
        workers: int,
        precision: str,
        channels_last: bool,
        pixels: int | None = None,
    ) -> None:
        self.pixels = pixels
        self.processes, self.precision, self.channels_last = processes, precision, channels_last
        self.classes, self.class_names, self.ignore_index = classes, class_names, ignore_index
        shard = Shard(data, processes, size)
        # Of the process with the most: all come between two batches as often.
        self.rounds = -(-len(data) // (processes.count * batch_size))
        workers = min(workers, -(-len(shard) // batch_size))
        self.loader: DataLoader[Any] = DataLoader(
            Told(shard),
            batch_size=batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=partial(collated, collate=list),
            worker_init_fn=worker_setup() if workers else None,
            generator=torch.Generator(),
        )

    def __call__(
        self,
        model: SegmentationModel,
        *,
        fully: bool = False,
        features: FeatureCache | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Scores:
        """The scores of a model; see :meth:`measure`."""
        meter = self.measure(model, fully=fully, features=features, between=between)
        return meter.compute(self.class_names)

    @torch.no_grad()
    def measure(
        self,
        model: SegmentationModel,
        *,
        fully: bool = False,
        features: FeatureCache | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> ScoreMeter:
        """Count a model's masks of all images; it is in eval mode afterwards.

        Args:
            model: On the device of the processes.
            fully: With boundaries and calibration, in float32 and with weights as they lie:
                what :func:`segzoo.evaluate` measures, which takes its time.
            features: Maps of an encoder that stands still, which are the model's as well.
            between: Called before each batch, as often in all processes; it may end the judging by
                an error.
        """
        model.eval()
        precision = "float32" if fully else self.precision
        device = self.processes.device
        meter = self._meter(fully)
        batches = raised(self.loader)
        for _ in range(self.rounds):
            between()
            for raw, masks, names in batched(next(batches, ()), self.pixels):
                image = model.normalization(raw.to(device))
                if self.channels_last and not fully:
                    image = image.contiguous(memory_format=torch.channels_last)
                with autocast(precision, device):
                    if features is None:
                        logits = model(image)
                    else:
                        maps = features.maps(raw, image, channels_last=self.channels_last)
                        logits = model.forward_heads(image, maps=maps).logits
                found = as_counted(logits.float(), masks, model)
                meter.update(found, masks.to(device), names)
        whole = self._meter(fully)
        for state in self.processes.gather(meter.state()):
            whole.merge(ScoreMeter.from_state(state))
        return whole

    def _meter(self, fully: bool) -> ScoreMeter:
        return ScoreMeter(
            self.classes, ignore_index=self.ignore_index, boundaries=fully, calibration=fully
        )


def batched(
    items: Sequence[Item], pixels: int | None = None
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Neighbours of one size as batches: images, masks, names.

    Args:
        items: Images with masks and names.
        pixels: How many a batch of several images has at most; None for any number.
    """

    def sizes(item: Item) -> tuple[torch.Size, torch.Size]:
        return item[0].shape, item[1].shape

    for (size, _), group in groupby(items, sizes):
        same = list(group)
        count = len(same) if pixels is None else max(1, pixels // (size[-2] * size[-1]))
        for first in range(0, len(same), count):
            part = same[first : first + count]
            yield (
                torch.stack([image for image, _, _ in part]),
                torch.stack([mask for _, mask, _ in part]),
                [name for _, _, name in part],
            )
