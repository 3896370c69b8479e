"""Images a second of a training that reads its files, beside one whose batch is in memory.

    SEGZOO_CAMVID=folder python -m benchmarks.loader_throughput        all, resumes where it stopped
    SEGZOO_CAMVID=folder python -m benchmarks.loader_throughput --steps 1 --rounds 1 --encoders NAME

CamVid's pictures and masks of 360x480, as files. Each turn takes some steps of ``segzoo.train``
(forward, loss, backward, optimiser): with one batch that is in memory already, which is the model's
own speed; with batches that this process reads and augments between the steps; and with batches
of the workers that ``segzoo train`` takes, on the same processors and with the same threads of
torch. Workers have some batches ready and rest when a turn begins. They make a batch for each that
is taken, in less time than a step, so the turn has all of their work and no more. The order of ways
changes from round to round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import segzoo
from segzoo.training.learner import Learner, Settled
from segzoo.training.loaders import batches, default_workers
from segzoo.training.order import Order
from segzoo.training.processes import Processes

from . import camvid
from .common import summary, write_result

SIZE, BATCH = (360, 480), 4
#: What is done to the pictures. In both they are resized to their own size where they have it not.
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "mirrored": {"size": SIZE},
    "mirrored, scaled, cropped, coloured": {
        "size": SIZE,
        "scale": (0.75, 1.5),
        "crop": SIZE,
        "color": 0.3,
    },
}
#: Each with its own pauses: until workers have made what they keep ready.
PAUSE = 3.0
MEMORY = "batch in memory"
LOG = Path(".loader-throughput.jsonl")


def ways(recipe: segzoo.Recipe) -> dict[str, Iterator[Any]]:
    """For each way its batches, without an end."""
    data = segzoo.open_data(camvid.folder(), classes=camvid.VOID, ignore_index=camvid.VOID).train
    order = Order(len(data), BATCH, seed=recipe.seed)

    def loaded(workers: int) -> Iterator[Any]:
        return batches(
            data,
            recipe,
            order,
            process=0,
            start=(0, 0),
            epochs=10**6,
            workers=workers,
            ignore_index=camvid.VOID,
            pin_memory=False,
        )

    found = {MEMORY: itertools.repeat(next(loaded(0))), "read between steps": loaded(0)}
    workers = default_workers()
    found[f"read by {workers} worker{'s' if workers > 1 else ''}"] = loaded(workers)
    return found


def measure(encoder: str, augmentation: str, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Images a second of each way, and the median of its shares of the model's own."""
    torch.manual_seed(0)
    recipe = segzoo.Recipe(precision="float32", epochs=10**6, **AUGMENTATIONS[augmentation])
    model = segzoo.Unet(encoder, classes=camvid.VOID).to(memory_format=torch.channels_last)
    learner = Learner(
        model,
        recipe,
        Settled(BATCH, 1e-4, "float32"),
        Processes("cpu"),
        ignore_index=camvid.VOID,
    )
    learner.begin(frozen=False)
    streams, chance = ways(recipe), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for turn in range(rounds + 1):
        for name in chance.sample(list(streams), len(streams)):
            time.sleep(PAUSE)
            began = time.perf_counter()
            for _ in range(steps if turn else 1):  # the first is for warming up
                float(learner.update([next(streams[name])], 1.0, 0.9, progress=0.5))
            if turn:
                seconds[name].append((time.perf_counter() - began) / steps)
    own = seconds[MEMORY]
    return [
        {
            "encoder": encoder,
            "augmentation": augmentation,
            "way": name,
            "step_ms": summary([1e3 * value for value in values]),
            "images_per_second": round(BATCH / statistics.median(values), 3),
            "of_the_model": round(
                statistics.median(one / other for one, other in zip(own, values, strict=True)), 3
            ),
        }
        for name, values in seconds.items()
    ]


def main() -> None:
    """Measure what is missing, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoders", nargs="+", default=["resnet34", "mobilenetv3_small_050"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=3, help="in a turn")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = {"size": SIZE, "batch": BATCH, "steps": arguments.steps, "rounds": arguments.rounds}
    setting = json.dumps({**about, "threads": arguments.threads, "torch": torch.__version__})
    lines = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    done = {line["case"]: line["rows"] for line in lines if line["setting"] == setting}
    rows = []
    for encoder, augmentation in itertools.product(arguments.encoders, AUGMENTATIONS):
        case = f"{encoder}, {augmentation}"
        if case not in done:
            done[case] = measure(encoder, augmentation, arguments.steps, arguments.rounds)
            with LOG.open("a") as file:
                entry = {"setting": setting, "case": case, "rows": done[case]}
                file.write(json.dumps(entry) + "\n")
        rows += done[case]
        print(*done[case], sep="\n", flush=True)
    write_result("loader_throughput", about, rows=rows)
    LOG.unlink()


if __name__ == "__main__":
    main()
