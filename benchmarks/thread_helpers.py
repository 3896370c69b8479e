"""What a model takes in a thread beside others that have computed in parallel before.

    python -m benchmarks.thread_helpers [--threads 2]

OpenMP gives each thread that computes in parallel helpers, and keeps them. The others do nothing
while the model computes: they only have theirs, or have been told to compute alone.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch

import segzoo
from benchmarks.common import summary, write_result
from segzoo.threads import compute_alone, helpers
from segzoo.timing import Timing, in_turn

ENCODER, SIZE = "resnet18", (240, 320)
ROUNDS, CALLS = 9, 5


@contextmanager
def others(count: int, make: Callable[[int], ThreadPoolExecutor]) -> Iterator[None]:
    """So many threads that have computed once, and wait."""
    if count == 0:
        yield
        return
    with make(count) as pool:
        together = threading.Barrier(count)
        # Long enough to be shared out.
        list(pool.map(lambda _: (together.wait(), torch.ones(1 << 20).add_(1)), range(count)))
        yield


def in_a_thread(model: segzoo.SegmentationModel, image: torch.Tensor) -> float:
    """Milliseconds of a call, in a thread that is new and ends."""

    def median() -> float:
        with torch.no_grad():
            return in_turn({"call": partial(model, image)}, rounds=CALLS, warmup=2)["call"].median

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(median).result()


def main() -> None:
    """Measure in turn, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    compute_alone()
    torch.manual_seed(0)
    model, image = segzoo.Unet(ENCODER, classes=11).eval(), torch.rand(1, 3, *SIZE)
    ways = {
        "no other thread": partial(others, 0, ThreadPoolExecutor),
        "one other, with helpers": partial(others, 1, ThreadPoolExecutor),
        "three others, with helpers": partial(others, 3, ThreadPoolExecutor),
        "three others, each alone": partial(others, 3, lambda count: helpers(count, "alone")),
    }
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, beside in ways.items():
            with beside():
                rounds[name].append(in_a_thread(model, image))
    timings = {name: Timing(tuple(values)) for name, values in rounds.items()}
    first = next(iter(timings.values()))
    rows = [
        {
            "beside": name,
            "ms": summary(timing.rounds),
            "times_as_long": round(first.speed_up_over(timing), 3),
        }
        for name, timing in timings.items()
    ]
    for row in rows:
        print(*row.values())
    write_result("thread_helpers", {"encoder": ENCODER, "size": SIZE, "rounds": ROUNDS}, rows=rows)


if __name__ == "__main__":
    main()
