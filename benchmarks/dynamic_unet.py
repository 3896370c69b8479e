"""DynamicUnet against fastai's own: time, activations that training keeps, peak memory, work.

    python -m benchmarks.dynamic_unet

Both models have the same weights, and their outputs are compared first. Times are CPU seconds of
one thread, so that other processes on the machine do not count; the two take turns and the ratio is
the median of the rounds' ratios. Peak memory is that of a process of its own.
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
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import segzoo

from .common import peak_rise, saved_activations, summary, write_result
from .parity.fastai_models import Case, eval_difference, fastai_unet, make_pair, plain

SIZE = 256


def paired(
    theirs: Callable[[], object], ours: Callable[[], object], rounds: int
) -> dict[str, object]:
    """CPU milliseconds of each, and the median of the ratios ours / theirs."""
    times: dict[str, list[float]] = {"fastai": [], "segzoo": []}
    turns = [("fastai", theirs), ("segzoo", ours)]
    for i in range(rounds + 1):
        for name, run in turns if i % 2 else reversed(turns):
            start = time.process_time()
            run()
            if i:
                times[name].append((time.process_time() - start) * 1e3)
    ratios = [b / a for a, b in zip(times["fastai"], times["segzoo"], strict=True)]
    return {
        "cpu_ms": {name: summary(values) for name, values in times.items()},
        "ratio": round(statistics.median(ratios), 3),
    }


def inference(model: nn.Module, image: Tensor) -> Callable[[], object]:
    """One forward without gradients."""

    def run() -> None:
        with torch.inference_mode():
            model.eval()(image)

    return run


def step(model: nn.Module, image: Tensor) -> Callable[[], object]:
    """One forward and backward in training mode."""
    mask = torch.zeros(image.shape[0], *image.shape[2:], dtype=torch.long)

    def run() -> None:
        model.train().zero_grad(set_to_none=True)
        nn.functional.cross_entropy(plain(model(image)), mask).backward()

    return run


def peak(which: str, mode: str) -> None:
    """Print by how many MiB one forward (or step) raises the peak memory of this process."""
    case = Case("resnet34")
    model = fastai_unet(case) if which == "fastai" else segzoo.DynamicUnet(case.encoder, 3)
    image = _image(1 if mode == "inference" else 4)
    print(peak_rise((inference if mode == "inference" else step)(model, image)))


def peaks(mode: str) -> dict[str, float]:
    """The rise of the peak for both, each in a process of its own."""
    found = {}
    for which in ("fastai", "segzoo"):
        command = [sys.executable, "-m", "benchmarks.dynamic_unet", "--peak", which, mode]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[which] = round(float(out.split()[-1]), 1)
    return {**found, "ratio": round(found["segzoo"] / found["fastai"], 3)}


def work() -> dict[str, dict[str, float]]:
    """Parameters and multiply-adds (times two) of the choices a user has."""
    with torch.device("meta"):
        models = {
            "DynamicUnet": segzoo.DynamicUnet("resnet34", 3),
            "DynamicUnet, last_cross=False": segzoo.DynamicUnet("resnet34", 3, last_cross=False),
            "Unet": segzoo.Unet("resnet34", 3),
        }
    record = {}
    for name, model in models.items():
        model.requires_grad_(False).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, SIZE, SIZE, device="meta"))
        record[name] = {
            "million_parameters": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
            "gflops": round(counter.get_total_flops() / 1e9, 1),
        }
    return record


def _image(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def measure(rounds: int) -> dict[str, Any]:
    """Everything, for resnet34 at 256x256."""
    theirs, ours = make_pair(Case("resnet34"))
    record: dict[str, Any] = {
        "encoder": "resnet34",
        "size": [SIZE, SIZE],
        "largest_difference_of_outputs": eval_difference(theirs, ours, (1, 3, SIZE, SIZE)),
        "work": work(),
    }
    image = _image(4)
    kept = {
        "fastai": saved_activations(theirs.train(), image) / 2**20,
        "segzoo": saved_activations(ours.train(), image) / 2**20,
    }
    record["training_activations_mib_batch_4"] = {
        **{name: round(value, 1) for name, value in kept.items()},
        "ratio": round(kept["segzoo"] / kept["fastai"], 3),
    }
    record["peak_rise_mib_inference_batch_1"] = peaks("inference")
    record["peak_rise_mib_training_step_batch_4"] = peaks("training")
    record["training_step_batch_2"] = paired(
        step(theirs, _image(2)), step(ours, _image(2)), max(rounds // 4, 3)
    )
    for model in (theirs, ours):
        model.zero_grad(set_to_none=True)
    record["inference_batch_1"] = paired(
        inference(theirs, _image(1)), inference(ours, _image(1)), rounds
    )
    last = torch.channels_last
    record["inference_batch_1_channels_last"] = paired(
        inference(theirs.to(memory_format=last), _image(1).to(memory_format=last)),
        inference(ours.to(memory_format=last), _image(1).to(memory_format=last)),
        rounds,
    )
    return record


def main() -> None:
    """Measure, or be the child process of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--peak", nargs=2, metavar=("WHICH", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.peak:
        peak(*arguments.peak)
    else:
        write_result("dynamic_unet", measure(arguments.rounds))


if __name__ == "__main__":
    main()
