"""What reading, checking and augmenting pictures costs: ``SEGZOO_CAMVID=... python -m
benchmarks.data_check``.

Each figure is processor time of this process, in milliseconds a pair: the median of the rounds,
taken in turns. The augmentations are measured on the same 32 pictures in memory, beside
torchvision's transforms.v2 with the same operations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

import segzoo
from segzoo.data.transforms import keyed_generator

from .camvid import VOID, folder
from .common import write_result

PICTURES = 32
CROP = (180, 240)
SCALE = (0.5, 2.0)
COLOR = 0.4

Pairs = list[tuple[Tensor, Tensor]]

#: What is done, and the same in torchvision. Its crop has the same range of enlargements: of areas
#: they are squares.
AUGMENTATIONS: dict[str, tuple[segzoo.Augmentation, v2.Transform]] = {
    "flip": (segzoo.Augmentation(), v2.RandomHorizontalFlip(0.5)),
    "enlarge by 0.5 to 2, crop 180x240": (
        segzoo.Augmentation(hflip=False, scale=SCALE, crop=CROP),
        v2.RandomResizedCrop(CROP, scale=(1 / 16, 1.0), ratio=(4 / 3, 4 / 3), antialias=True),
    ),
    "brightness and contrast": (
        segzoo.Augmentation(hflip=False, color=COLOR),
        v2.ColorJitter(brightness=COLOR, contrast=COLOR),
    ),
    "resize to 90x120": (
        segzoo.Augmentation(hflip=False, size=(90, 120)),
        v2.Resize((90, 120), antialias=True),
    ),
    "crop 180x240 around a rare class": (
        segzoo.Augmentation(hflip=False, crop=CROP, rare_class_crops=1.0),
        v2.Identity(),
    ),
}


def processor_ms(work: Callable[[], object], count: int) -> float:
    """Milliseconds of this process's processors for each of ``count`` things."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3 / count


def ours(pairs: Pairs, augmentation: segzoo.Augmentation) -> None:
    """Each pair once."""
    for index, (image, mask) in enumerate(pairs):
        augmentation(image, mask, generator=keyed_generator(0, 0, index), ignore_index=VOID)


def theirs(pairs: Pairs, transform: v2.Transform) -> None:
    """Each pair once, wrapped as torchvision wants it."""
    for image, mask in pairs:
        transform(tv_tensors.Image(image), tv_tensors.Mask(mask))


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    root = folder()
    opened = segzoo.open_data(root, classes=VOID, ignore_index=VOID)
    count = len(opened.train) + len(opened.val)
    pairs = [opened.train[index] for index in range(PICTURES)]

    def read() -> None:
        for index in range(PICTURES):
            opened.train[index]

    work: dict[str, tuple[Callable[[], object], int]] = {
        "open, classes counted": (lambda: segzoo.open_data(root, ignore_index=VOID), count),
        "open, classes given": (
            lambda: segzoo.open_data(root, classes=VOID, ignore_index=VOID),
            count,
        ),
        "read": (read, PICTURES),
        "check, 1 thread": (lambda: segzoo.check_data(opened, workers=1), count),
        "check, 2 threads": (lambda: segzoo.check_data(opened, workers=2), count),
    }
    for name, (augmentation, transform) in AUGMENTATIONS.items():
        work[f"segzoo: {name}"] = (lambda a=augmentation: ours(pairs, a), PICTURES)
        if not isinstance(transform, v2.Identity):
            work[f"torchvision: {name}"] = (lambda t=transform: theirs(pairs, t), PICTURES)
    measured: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, (run, number) in work.items():
            measured[name].append(processor_ms(run, number))
    report = segzoo.check_data(opened, workers=1)
    rows: dict[str, Any] = {
        name: round(statistics.median(values), 3) for name, values in measured.items()
    }
    for name, value in rows.items():
        print(f"{name:55} {value:8.3f} ms a pair")
    write_result(
        "data_check",
        {
            "pairs": count,
            "size": report.sizes[0],
            "errors": list(report.errors),
            "rounds": rounds,
            "torchvision": torchvision.__version__,
            "milliseconds_a_pair": rows,
        },
    )


if __name__ == "__main__":
    main()
