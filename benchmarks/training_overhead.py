"""What the loop of ``segzoo.train`` costs beside a bare loop that takes the same steps.

    python -m benchmarks.training_overhead

Processor time of one thread: a model that is next to nothing shows what a step costs, a real one
what share that is. Peaks are the rise of resident memory over what was there before, each in a
process of its own. The bare loop has the same model, batches, loss, clipping and optimiser, and
neither state nor scores; saving and scoring are left out of the time, they come once an epoch.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import segzoo
from segzoo.training.learner import Learner, Settled
from segzoo.training.loop import Loop
from segzoo.training.order import Order
from segzoo.training.processes import Processes
from segzoo.training.stopping import StopRequests
from tests.training.toys import Blobs, toy_model

from .common import peak_rise, summary, write_result

#: Model, size of images, batch, steps in a round, rounds.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], int, int, int]] = {
    "toy": (toy_model, (24, 32), 4, 50, 9),
    "resnet10t": (lambda: segzoo.Unet("resnet10t", classes=3), (90, 120), 8, 2, 7),
}
PRECISION = "float32"


def batch_of(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch, the same for both."""
    _, size, count, _, _ = CASES[case]
    data = Blobs(count, size=size)
    images, masks = zip(*(data[i] for i in range(count)), strict=True)
    return torch.stack(images), torch.stack(masks)


def bare(case: str) -> Callable[[int], None]:
    """A loop as one writes it by hand."""
    model: Any = CASES[case][0]().to(memory_format=torch.channels_last).train()
    images, masks = batch_of(case)
    loss_of = segzoo.losses.SegmentationLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=10**6)

    def run(steps: int) -> None:
        for _ in range(steps):
            image = model.normalization(images).contiguous(memory_format=torch.channels_last)
            loss = loss_of(model(image), masks)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss.item()

    return run


def ours(case: str) -> Callable[[int], None]:
    """The steps of :class:`Loop`, as an epoch takes them."""
    model: Any = CASES[case][0]().to(memory_format=torch.channels_last)
    processes = Processes("cpu")
    recipe = segzoo.Recipe(precision=PRECISION, epochs=10**6)
    learner = Learner(
        model, recipe, Settled(CASES[case][2], 1e-3, PRECISION), processes, ignore_index=None
    )
    learner.begin(frozen=False)
    batch = batch_of(case)
    unused: Any = None  # steps neither judge nor save

    def run(steps: int) -> None:
        loop = Loop(
            learner,
            Order(steps * CASES[case][2], CASES[case][2]),
            batches=lambda start: iter(()),
            validate=unused,
            folder=unused,
            names=str,
            head={},
            save_seconds=1e9,
            progress=False,
        )
        loop.steps(0, iter([batch] * steps), StopRequests())

    return run


def times(case: str) -> dict[str, Any]:
    """Milliseconds a step, the two taking turns, and the median of their differences."""
    _, _, _, steps, rounds = CASES[case]
    runs = {"bare": bare(case), "segzoo": ours(case)}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name in runs if i % 2 else reversed(runs):
            start = time.process_time()
            runs[name](steps)
            if i:
                taken[name].append((time.process_time() - start) / steps * 1e3)
    differences = [b - a for a, b in zip(taken["bare"], taken["segzoo"], strict=True)]
    ratios = [b / a for a, b in zip(taken["bare"], taken["segzoo"], strict=True)]
    return {
        **{f"{name}_ms": summary(values) for name, values in taken.items()},
        "difference_ms": round(statistics.median(differences), 3),
        "ratio": round(statistics.median(ratios), 4),
    }


def peak(case: str, which: str) -> float:
    """MiB at the peak of three steps, above what was there before."""
    return peak_rise(lambda: {"bare": bare, "segzoo": ours}[which](case)(3))


def main() -> None:
    """Measure, or be the child process of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(peak(*arguments.peak))
        return
    record: dict[str, Any] = {}
    for case in CASES:
        record[case] = times(case)
        command = [sys.executable, "-m", "benchmarks.training_overhead", "--peak", case]
        for which in ("bare", "segzoo"):
            out = subprocess.run([*command, which], capture_output=True, text=True, check=True)
            record[case][f"{which}_peak_mib"] = round(float(out.stdout.split()[-1]), 1)
        weights = sum(item.numel() * 4 for item in CASES[case][0]().parameters())
        record[case]["weights_mib"] = round(weights / 2**20, 2)
        print(case, record[case], flush=True)
    write_result("training_overhead", record)


if __name__ == "__main__":
    main()
