"""A training step of the Unet beside smp's: images a second, and what training keeps in memory.

    python -m benchmarks.training

All candidates have the same weights. Gradients and running statistics of a step are compared with
smp's in float64 before anything is timed. The candidates take turns. On a CPU the time is processor
time of one thread, so that other processes do not count; on a GPU, where one is found, that of
synchronised clocks, in bfloat16 autocast, and compiled candidates are added. Kept activations are
all that autograd keeps from forward to backward but weights; the peak is that of one step,
gradients included: the rise of resident memory in a process of its own, or what the GPU's allocator
reports.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from segzoo._compat import keeping_at_most

from .common import peak_rise, saved_activations, summary, write_result
from .parity.smp import make_pair, step_difference

#: Batch, size and rounds; the last only shows that a run works.
SETTINGS = {"512": (2, 512, 5), "256": (4, 256, 8), "smallest": (2, 64, 1)}


@dataclass(frozen=True)
class Candidate:
    """How to train: whose model, how it computes, how it lies in memory."""

    library: str
    training: Mapping[str, Any] = field(default_factory=dict)
    channels_last: bool = True
    compiled: bool = False
    #: Of what a compiler may keep, the share that it keeps at most; None leaves it alone.
    budget: float | None = None

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in self.training.items()]
        options += ["channels_last"] * self.channels_last + ["compiled"] * self.compiled
        options += [] if self.budget is None else [f"keeps at most {self.budget:.0%}"]
        return ", ".join([self.library, *options])

    def make(self, pair: tuple[nn.Module, nn.Module], device: str) -> nn.Module:
        """Its own copy of the model of a pair (smp's, ours)."""
        model: Any = copy.deepcopy(pair[self.library == "segzoo"])
        if self.training:
            model.configure_training(**self.training)
        model = model.to(device).train()
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def step(self, model: nn.Module, image: Tensor) -> Callable[[], None]:
        """One forward and backward, autocast to bfloat16 on a GPU."""
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        count, _, height, width = image.shape
        mask = torch.zeros(count, height, width, dtype=torch.long, device=image.device)
        call = torch.compile(model) if self.compiled else model
        on_gpu = image.device.type == "cuda"

        def run() -> None:
            model.zero_grad(set_to_none=True)
            # What the compiler keeps it decides in the first step.
            kept = nullcontext() if self.budget is None else keeping_at_most(self.budget)
            with kept, torch.autocast(image.device.type, torch.bfloat16, enabled=on_gpu):
                loss = nn.functional.cross_entropy(call(image), mask)
            loss.backward()

        return run


CANDIDATES = (
    Candidate("smp", channels_last=False),
    Candidate("smp"),
    Candidate("segzoo", {"decoder_impl": "plain"}),
    Candidate("segzoo", {"decoder_impl": "rewritten"}, channels_last=False),
    Candidate("segzoo", {"decoder_impl": "rewritten"}),
    Candidate("segzoo", {"decoder_impl": "auto"}),
    Candidate("segzoo", {"decoder_impl": "auto", "checkpoint": "norms"}),
    Candidate("segzoo", {"decoder_impl": "auto", "checkpoint": 2}),
    Candidate("segzoo", {"decoder_impl": "auto", "checkpoint": 5}),
    Candidate("smp", compiled=True),
    Candidate("segzoo", {"decoder_impl": "plain"}, compiled=True),
    Candidate("segzoo", {"decoder_impl": "rewritten"}, compiled=True),
    Candidate("segzoo", {"decoder_impl": "rewritten"}, compiled=True, budget=0.5),
)


def clock(device: str) -> float:
    """Milliseconds: of this process's processor time, or of a GPU that has done its work."""
    if device == "cpu":
        return time.process_time() * 1e3
    torch.cuda.synchronize()
    return time.perf_counter() * 1e3


def times(steps: Mapping[str, Callable[[], None]], rounds: int, device: str) -> dict[str, Any]:
    """Milliseconds of each step, and the median of its rounds' ratios to smp's best."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name in steps if i % 2 else reversed(steps):
            start = clock(device)
            steps[name]()
            if i:
                taken[name].append(clock(device) - start)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    best = min((name for name in medians if name.startswith("smp")), key=medians.__getitem__)
    speed_ups = {
        name: statistics.median(a / b for a, b in zip(taken[best], values, strict=True))
        for name, values in taken.items()
    }
    return {
        name: {"ms": summary(values), "speed_up_over_smp's_best": round(speed_ups[name], 3)}
        for name, values in taken.items()
    }


def peak(index: int, encoder: str, setting: str, device: str) -> float:
    """MiB at the peak of one step of a candidate, above what was there before."""
    candidate = CANDIDATES[index]
    batch, size, _ = SETTINGS[setting]
    model = candidate.make(make_pair({}, encoder), device)
    run = candidate.step(model, torch.randn(batch, 3, size, size, device=device))
    if device == "cpu":
        return peak_rise(run)
    run()  # a compiled candidate compiles here, and cuDNN chooses
    model.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peak_of_its_own(*arguments: object) -> float:
    """The same in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.training", "--peak", *map(str, arguments)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return round(float(out.split()[-1]), 1)


def differences(pair: tuple[nn.Module, nn.Module], size: tuple[int, int]) -> dict[str, float]:
    """Of gradients and running statistics in float64, relative, for each implementation.

    Raises:
        RuntimeError: One is not equal up to rounding, so that there is nothing to time.
    """
    found = {}
    implementations = {
        str(sorted(c.training.items())): c for c in CANDIDATES if c.library == "segzoo"
    }
    for candidate in implementations.values():
        ours: Any = copy.deepcopy(pair[1])
        ours.configure_training(**candidate.training)
        name = ", ".join(f"{key}={value}" for key, value in candidate.training.items())
        found[name] = step_difference(copy.deepcopy(pair[0]), ours, size)
        if not found[name] < 1e-9:
            raise RuntimeError(f"{name} differs from smp by {found[name]}; it is not timed.")
    return found


def measure(encoder: str, setting: str, device: str) -> dict[str, Any]:
    """Everything for one size."""
    batch, size, rounds = SETTINGS[setting]
    pair = make_pair({}, encoder)
    record: dict[str, Any] = {
        "batch": batch,
        "size": size,
        "largest_relative_difference_float64": differences(pair, (min(size, 256), 96)),
    }
    chosen = {
        str(candidate): (i, candidate)
        for i, candidate in enumerate(CANDIDATES)
        if device == "cuda" or not candidate.compiled
    }
    image = torch.randn(batch, 3, size, size, device=device)
    models = {name: candidate.make(pair, device) for name, (_, candidate) in chosen.items()}
    steps = {name: chosen[name][1].step(model, image) for name, model in models.items()}
    rows = times(steps, rounds, device)
    for name, (i, candidate) in chosen.items():
        row = rows[name]
        row["images_per_second"] = round(batch / row["ms"]["median"] * 1e3, 3)
        if not candidate.compiled:  # a compiler's graph hides what it keeps
            row["kept_mib"] = round(saved_activations(models[name], image) / 2**20, 1)
        row["peak_mib"] = peak_of_its_own(i, encoder, setting, device)
        print(name, row, flush=True)
    return {**record, "candidates": rows}


def main() -> None:
    """Measure, or be the child process of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--smallest", action="store_true", help="Only try that it runs.")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if arguments.peak:
        index, encoder, setting, device = arguments.peak
        print(peak(int(index), encoder, setting, device))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = ["smallest"] if arguments.smallest else ["512", "256"]
    record = {name: measure(arguments.encoder, name, device) for name in settings}
    if not arguments.smallest:
        name = "training" if device == "cpu" else "training_gpu"
        write_result(name, {"encoder": arguments.encoder, "settings": record})


if __name__ == "__main__":
    main()
