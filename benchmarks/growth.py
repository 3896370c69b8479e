"""How time and memory grow: with the batch, the image's side, the classes, and a second thread.

    python -m benchmarks.growth                          all points, goes on where it stopped
    python -m benchmarks.growth --only side --most 512   some, printed, without a record

A Unet on resnet18 in float32, random weights that are the same in both libraries; segzoo's as it is
and by ``segzoo.optimize``, smp's as it is and, for small images, compiled with frozen weights. All
take turns, round by round. Each point has a process of its own, with a limit on its memory: what a
library cannot do within it stands in the record. Times are processor seconds with one thread and of
the clock with two. Memory is by how much a call raises the peak of the process's resident memory
once the model is warm: maps, logits and scratch space without weights.

Images larger than ``TUNED`` are given to a model that was optimised for that size, as people would:
to try the implementations on a huge image takes minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segzoo.bench import Pair, Reference, eager, make_pair, make_reference, optimized
from segzoo.timing import in_turn

from .common import RESULTS, peak_rise, write_result
from .growth_tables import plot
from .isolated import in_process
from .throughput.candidates import Load, compiled
from .throughput.settings import Setting

ENCODER, GIBIBYTES, SECONDS = "resnet18", 20, 900
PICTURE = RESULTS.parents[1] / "docs" / "images" / "growth.png"
#: Pixels of a batch up to which a model is optimised for that very shape, and smp's is compiled.
TUNED, COMPILED = 2 * 1024**2, 512**2
#: Images with larger sides are not computed in float64.
EXACT = 512
#: Rounds of a batch of so many pixels or fewer; the first that fits.
ROUNDS = ((512**2, 7), (2 * 1024**2, 5), (2048**2, 3), (math.inf, 1))
OURS, FAST, THEIRS, FROZEN = "segzoo eager", "segzoo optimize", "smp eager", "smp compiled, frozen"


@dataclass(frozen=True)
class Point:
    """What is measured: one value of ``axis``, the others as they stand.

    Attributes:
        axis: ``batch``, ``side`` or ``classes``: what the point belongs to.
        side: Of the square images, pixels.
    """

    axis: str
    batch: int = 1
    side: int = 512
    classes: int = 3
    threads: int = 1

    @property
    def value(self) -> int:
        """Of its axis."""
        return int(getattr(self, self.axis))

    @property
    def pixels(self) -> int:
        """Of the batch."""
        return self.batch * self.side**2


POINTS = (
    *(Point("batch", batch=batch, side=256) for batch in (1, 2, 4, 8, 16, 32)),
    *(Point("side", side=side) for side in (128, 256, 512, 1024, 2048, 4096)),
    *(Point("classes", classes=classes) for classes in (1, 3, 21, 150)),
    *(Point("batch", batch=batch, side=256, threads=2) for batch in (1, 8)),
    *(Point("side", side=side, threads=2) for side in (128, 512, 1024)),
)


def measure(point: Point) -> dict[str, Any]:
    """A row, measured in this process."""
    torch.manual_seed(0)
    pair = make_pair(ENCODER, "unet", (256, 256), classes=point.classes)
    image = torch.randn(point.batch, 3, point.side, point.side)
    judge = _Judge(pair, image)
    ways: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Tensor]] = {}
    for name, build in _builders(pair, image, point).items():
        try:
            call = build()
            ways[name] = judge.looked_at(call)
            calls[name] = call
        except (MemoryError, RuntimeError, WrongError) as error:
            ways[name] = {"failed": str(error).strip().partition("\n")[0][:200]}
    timings = in_turn(
        calls,
        rounds=next(rounds for most, rounds in ROUNDS if point.pixels <= most),
        warmup=0,
        turn=0.05 if point.pixels <= 512**2 else 0.0,
        own_time=True,
    )
    for name, timing in timings.items():
        ways[name]["ms"] = timing.summary()
        if THEIRS in timings:
            ways[name]["to_smp"] = round(timing.speed_up_over(timings[THEIRS]), 3)
    return {**asdict(point), "value": point.value, "ways": ways}


class WrongError(Exception):
    """An output that is too far from the plain model's."""


class _Judge:
    """Compares the first image's logits with float64, or of large ones with our plain model's."""

    def __init__(self, pair: Pair, image: Tensor) -> None:
        first = image[:1]
        self.once = image.numel() > 3 * ROUNDS[-2][0]
        self.reference: Reference | None = None
        if first.shape[-1] <= EXACT:
            self.reference = make_reference(pair.ours, first, torch.float32)

    def looked_at(self, call: Callable[[], Tensor]) -> dict[str, Any]:
        """Whether it is right, and the MiB by which a call raises the peak of memory.

        The middle of three more calls, but for images that take a minute.
        """
        found: list[Tensor] = []
        peak = peak_rise(lambda: found.append(call()))
        logits = found.pop()[:1].clone()
        if self.reference is None:
            self.reference = Reference(logits.double(), (0,), 1e-4)
        difference = self.reference.difference(logits)
        if not difference <= self.reference.allowed:
            raise WrongError(f"wrong output: differs by {difference:.1e}")
        del logits
        if not self.once:  # the heap of a process is not left alike by every call
            peak = statistics.median(peak_rise(call) for _ in range(3))
        return {"peak_mib": round(peak), "difference": float(f"{difference:.3g}")}


def _builders(pair: Pair, image: Tensor, point: Point) -> dict[str, Callable[[], Any]]:
    assert pair.theirs is not None, pair.reason
    theirs, plain = pair.theirs, torch.float32
    builders: dict[str, Callable[[], Any]] = {
        OURS: lambda: eager(pair.ours, image, plain),
        THEIRS: lambda: eager(theirs, image, plain),
        FAST: lambda: _optimized(pair, image),
    }
    if point.axis == "side" and point.threads == 1 and point.pixels <= COMPILED:
        setting = Setting(ENCODER, (point.side, point.side))
        builders[FROZEN] = lambda: compiled(Load(theirs, image, setting), frozen=True)
    return builders


def _optimized(pair: Pair, image: Tensor) -> Callable[[], Tensor]:
    """The model optimised for the image, or for as much of it as is tried at most."""
    if image.shape[0] * image.shape[2] * image.shape[3] <= TUNED:
        return optimized(pair.ours, image, torch.float32)
    fast = optimized(pair.ours, image[:1, :, :1024, :1024], torch.float32)
    large = image.contiguous(memory_format=torch.channels_last)

    def call() -> Tensor:
        with torch.inference_mode():
            return fast.model(large)

    return call


def sweep(points: Sequence[Point], log: Path) -> list[dict[str, Any]]:
    """Measure what the log does not have yet; it grows by a line for each point."""
    found: dict[Point, dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        row = json.loads(line)
        found[Point(**{name: row[name] for name in asdict(points[0])})] = row
    for point in points:
        if point in found:
            continue
        row = in_process(
            measure, point, seconds=SECONDS, gibibytes=GIBIBYTES, threads=point.threads
        )
        if isinstance(row, str):
            row = {**asdict(point), "value": point.value, "failed": row}
        found[point] = row
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(point, json.dumps(row.get("ways", row)), flush=True)
    return [found[point] for point in points]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, write the record and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("batch", "side", "classes"), help="without a record")
    parser.add_argument("--most", type=int, default=4096, help="values up to this one")
    parser.add_argument("--threads", type=int, help="points with so many")
    given = parser.parse_args(arguments)
    points = [
        point
        for point in POINTS
        if (given.only in (None, point.axis))
        and point.value <= given.most
        and given.threads in (None, point.threads)
    ]
    log = Path(f".growth-{torch.__version__}.jsonl")
    rows = sweep(points, log)
    if len(points) == len(POINTS):
        record = {"encoder": ENCODER, "gibibytes": GIBIBYTES}
        write_result("growth", record, rows=rows)
        plot(rows, PICTURE)


if __name__ == "__main__":
    main()
