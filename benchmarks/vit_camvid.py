"""Train EoMT, a linear head and Unet on one small plain transformer, on CamVid.

    SEGZOO_CAMVID=folder python -m benchmarks.vit_camvid
    SEGZOO_CAMVID=folder python -m benchmarks.vit_camvid --epochs 1 --seeds 1 --images 16 --dry

From random weights at 192x256 through ``segzoo.train``, scored on the validation masks at their
full size: eleven classes, void neither learned nor scored. :mod:`benchmarks.camvid` says what the
folder holds. One thread. Every run is written down when it ends, and a second call goes on with
what is missing; a run that was stopped goes on where it was (``--work``).
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import torch

import segzoo
from segzoo.architectures.base import create_model
from segzoo.training.precision import chosen

from . import camvid
from .common import write_result, written

NAME = "vit_camvid"
ENCODER, SIZE, VOID = "vit_tiny_patch16_224", (192, 256), camvid.VOID
CLASSES = camvid.CLASSES - 1
#: What is trained; options are the defaults but for these.
SYSTEMS: dict[str, dict[str, Any]] = {
    "unet": {},
    "linear_head": {},
    "eomt": {"queries": 50},
}


def recipe(epochs: int, seed: int) -> segzoo.Recipe:
    """The defaults, but for what transformers are trained with: a lower rate, more decay."""
    return segzoo.Recipe(
        epochs=epochs, size=SIZE, learning_rate=5e-4, weight_decay=0.05, clip_norm=1.0, seed=seed
    )


@functools.cache
def data(images: int | None) -> segzoo.DataSplits:
    """CamVid as two splits of files, or of the first images of both."""
    found = segzoo.open_data(camvid.folder(), classes=CLASSES, ignore_index=VOID)
    if images is None:
        return found
    return segzoo.DataSplits.of(
        First(found.train, images),
        First(found.val, images),
        classes=CLASSES,
        ignore_index=VOID,
    )


class First:
    """The first items of a dataset."""

    def __init__(self, whole: Any, count: int) -> None:
        self.whole, self.count = whole, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        item: tuple[torch.Tensor, torch.Tensor] = self.whole[index]
        return item


def train(system: str, epochs: int, seed: int, images: int | None, work: Path) -> dict[str, Any]:
    """``segzoo.train`` as anybody calls it."""
    torch.manual_seed(seed)
    model = create_model(system, ENCODER, CLASSES, **SYSTEMS[system])
    start = time.process_time()
    result = segzoo.train(
        model,
        data(images),
        out=work / f"{system}-{epochs}-{seed}",
        recipe=recipe(epochs, seed),
        device="cpu",
        on_epoch=lambda row: print(system, seed, row["epoch"], row["val"]["miou"], flush=True),
    )
    scores = result.scores
    return {
        "parameters": sum(item.numel() for item in model.parameters()),
        "cpu_seconds": round(time.process_time() - start, 1),
        "miou": round(scores.miou or 0, 4),
        "pixel_accuracy": round(scores.pixel_accuracy or 0, 4),
        "curve": [round(row["val"]["miou"], 4) for row in result.history],
    }


def report(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The record: all runs, and their means by system and length."""
    parameters = {run["system"]: run["parameters"] for run in runs}
    summary = [
        {"system": system, "epochs": epochs, "parameters": parameters[system], **found}
        for system, epochs, found in camvid.summarised(runs, SYSTEMS, "epochs")
    ]
    return {
        "encoder": ENCODER,
        "size": list(SIZE),
        "options": SYSTEMS,
        "recipe": json.loads(recipe(1, 0).to_json()),
        "precision": chosen("auto", torch.device("cpu")),
        "summary": summary,
        "runs": runs,
    }


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--images", type=int, help="Of each split the first so many only.")
    parser.add_argument("--work", type=Path, default=Path(".vit-camvid"), help="For trainings.")
    parser.add_argument("--dry", action="store_true", help="Only try it: write no record.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = list(written(NAME, of_each_kind=True).get("runs", []))
    for seed in range(arguments.seeds):
        for system in arguments.systems:
            key = (system, arguments.epochs, seed)
            if not arguments.dry and key in {
                (run["system"], run["epochs"], run["seed"]) for run in runs
            }:
                continue
            found = train(*key, arguments.images, arguments.work)
            runs.append({"system": system, "epochs": arguments.epochs, "seed": seed, **found})
            print(runs[-1], flush=True)
            if not arguments.dry:
                write_result(NAME, report(runs), of_each_kind=True)


if __name__ == "__main__":
    main()
