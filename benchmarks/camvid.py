"""CamVid as a folder of pictures, and the mean IoU on it.

The folder, named by the environment variable ``SEGZOO_CAMVID``, has ``train`` and ``val``, each
with ``images`` and ``masks``: class numbers, :data:`VOID` for what is not labelled.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .common import spread

CLASSES, VOID = 12, 11


def folder() -> Path:
    """Where the pictures are; without them the script ends."""
    root = os.environ.get("SEGZOO_CAMVID")
    if root is None:
        sys.exit("Set SEGZOO_CAMVID to the folder of CamVid: train and val, images and masks.")
    return Path(root)


def pairs(root: Path, split: str) -> Iterator[tuple[Path, Path]]:
    """Image and mask of each picture of ``train`` or ``val``, in the order of their names."""
    for image in sorted((root / split / "images").iterdir()):
        yield image, root / split / "masks" / f"{image.stem}.png"


def read(root: Path, split: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A split at ``(height, width)``: images ``(N, 3, H, W)`` in 0..1, masks ``(N, H, W)``."""
    images, masks = [], []
    for image, mask in pairs(root, split):
        with Image.open(image) as picture:
            small = picture.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
            images.append(torch.from_numpy(np.asarray(small) / np.float32(255)).permute(2, 0, 1))
        with Image.open(mask) as picture:
            small = picture.resize(size[::-1], Image.Resampling.NEAREST)
            masks.append(torch.from_numpy(np.asarray(small, dtype=np.int64)))
    return torch.stack(images), torch.stack(masks)


def confusion(labels: Tensor, found: Tensor) -> Tensor:
    """Pixels by label (row) and prediction (column), without those that are not labelled."""
    labels, found = labels.flatten(), found.flatten()
    joint = labels[labels != VOID] * CLASSES + found[labels != VOID]
    return joint.bincount(minlength=CLASSES * CLASSES).view(CLASSES, CLASSES)


def summarised(
    runs: Sequence[Mapping[str, Any]], systems: Iterable[str], length: str
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """What was trained, how long, and the scores and seconds of its runs, for each that has any.

    Args:
        runs: Each with its ``system``, ``miou`` and ``cpu_seconds``.
        systems: In the order of the record.
        length: The name under which a run says how long it was.
    """
    for system, how_long in itertools.product(systems, sorted({run[length] for run in runs})):
        found = [run for run in runs if (run["system"], run[length]) == (system, how_long)]
        if found:
            miou = spread([run["miou"] for run in found])
            seconds = statistics.mean(run["cpu_seconds"] for run in found)
            yield (
                system,
                how_long,
                {
                    "runs": len(found),
                    **{f"miou_{name}": value for name, value in miou.items()},
                    "cpu_seconds_mean": round(seconds, 1),
                },
            )


def mean_iou(table: Tensor) -> float:
    """Mean intersection over union of the classes that the labels have, 0 to 1."""
    counts = table.double()
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    there = counts.sum(1) > 0
    return float((counts.diag() / union.clamp(min=1))[there].mean())
