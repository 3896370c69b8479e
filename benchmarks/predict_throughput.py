"""``segzoo predict``'s pictures a second beside those of the bare model, in turn.

    SEGZOO_CAMVID=folder python -m benchmarks.predict_throughput [--pictures 200] [--threads 2]

JPEG files of 512x512, made of CamVid's photographs. The bare model gets normalised tensors that are
in memory already, one at a time, and nothing is done with its logits. The command's pipeline reads
the files, computes the masks, and writes masks and overlays (or masks alone), with the same number
of torch's threads; it begins and ends with each turn, so the first file that is read and the last
that is written wait for nothing else. Turns of 25 pictures, in an order that changes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import segzoo
from segzoo.data.pictures import read_picture
from segzoo.folders.jobs import Failure, Job, Outcome
from segzoo.folders.pipeline import Pipeline
from segzoo.folders.task import Task
from segzoo.folders.tiled_jobs import TiledOptions

from . import camvid
from .common import write_result

SIDE, TURN = 512, 25


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Photographs of CamVid, resized, as JPEG."""
    files = sorted((camvid.folder() / "val" / "images").iterdir())
    paths = []
    for index in range(count):
        with Image.open(files[index % len(files)]) as image:
            resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        paths.append(folder / f"{index:04d}.jpg")
        resized.save(paths[-1], quality=92)
    return paths


def bare(model: segzoo.SegmentationModel, images: list[torch.Tensor]) -> None:
    """The model alone."""
    with torch.no_grad():
        for image in images:
            model(image)


def piped(model: segzoo.SegmentationModel, paths: list[Path], out: Path, *, overlays: bool) -> None:
    """All that the command does between the first picture and the last."""
    task = Task("", overlays=overlays, tiles=TiledOptions(overwrite=True))

    def done(outcome: Outcome) -> None:
        assert not isinstance(outcome, Failure), outcome.error

    Pipeline(model, task).run((Job(path, out / path.stem) for path in paths), done)


def measure(encoder: str, paths: list[Path], out: Path) -> list[dict[str, Any]]:
    """Images a second of each way: the median over turns, and its share of the bare model's."""
    torch.manual_seed(0)
    model = segzoo.Unet(encoder, classes=camvid.CLASSES).eval()
    chance = random.Random(0)
    images = [model.normalization(read_picture(path)[None]) for path in paths[:TURN]]
    ways: dict[str, Callable[[list[Path]], None]] = {
        "bare model": lambda turn: bare(model, images[: len(turn)]),
        "masks": lambda turn: piped(model, turn, out, overlays=False),
        "masks and overlays": lambda turn: piped(model, turn, out, overlays=True),
    }
    for way in ways.values():
        way(paths[:2])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for begin in range(0, len(paths), TURN):
        turn = paths[begin : begin + TURN]
        for name in chance.sample(list(ways), len(ways)):
            began = time.perf_counter()
            ways[name](turn)
            seconds[name].append((time.perf_counter() - began) / len(turn))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        name: statistics.median(
            one / other for one, other in zip(seconds["bare model"], values, strict=True)
        )
        for name, values in seconds.items()
    }
    return [
        {
            "encoder": encoder,
            "way": name,
            "images_per_second": round(1 / medians[name], 3),
            "of_the_bare_model": round(ratios[name], 3),
        }
        for name in ways
    ]


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--encoders", nargs="+", default=["resnet34", "mobilenetv3_small_050"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = make_pictures(folder, arguments.pictures)
        for encoder in arguments.encoders:
            rows += measure(encoder, paths, folder / "out")
            print(*rows[-3:], sep="\n", flush=True)
    write_result(
        "predict_throughput",
        {"pictures": arguments.pictures, "side": SIDE, "turn": TURN},
        rows=rows,
    )


if __name__ == "__main__":
    main()
