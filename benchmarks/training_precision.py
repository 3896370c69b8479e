"""A step of training in float32 and in bfloat16, in turn: is the half precision faster here?

    python -m benchmarks.training_precision

Forward, loss and backward of a U-Net with its channels last, on the CPU with one thread, under
autocast as ``segzoo.train`` has it. ``Recipe(precision="auto")`` takes bfloat16 on a CPU where a
short measurement at the start finds it faster; the record says what that chose, and what units the
processor has.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segzoo
from segzoo.timing import in_turn
from segzoo.training.precision import autocast, chosen

from .common import write_result

#: Encoder and batch.
CASES = (("resnet10t", (8, 3, 90, 120)), ("resnet34", (2, 3, 256, 256)))
CPU = torch.device("cpu")
CLASSES = 11


def step(model: nn.Module, image: Tensor, target: Tensor, precision: str) -> None:
    """Gradients of one batch."""
    with autocast(precision, CPU):
        logits = model(image)
    F.cross_entropy(logits.float(), target).backward()
    model.zero_grad()


def measure(encoder: str, shape: tuple[int, ...], *, rounds: int = 9) -> dict[str, Any]:
    """Both times, and how many times as fast bfloat16 is."""
    torch.manual_seed(0)
    model = segzoo.Unet(encoder, classes=CLASSES).to(memory_format=torch.channels_last).train()
    image = torch.rand(shape).contiguous(memory_format=torch.channels_last)
    target = torch.randint(CLASSES, (shape[0], *shape[2:]))
    calls = {
        precision: functools.partial(step, model, image, target, precision)
        for precision in ("float32", "bfloat16")
    }
    found = in_turn(calls, rounds=rounds, warmup=2)
    times = {name: timing.summary() for name, timing in found.items()}
    speed_up = round(times["float32"]["median"] / times["bfloat16"]["median"], 3)
    return {"encoder": encoder, "batch": list(shape), **times, "speed_up": speed_up}


def main() -> None:
    """Measure and write the record."""
    torch.set_num_threads(1)
    units = sorted(
        name for name, there in torch.cpu.get_capabilities().items() if there and "bf16" in name
    )
    rows = [measure(encoder, shape) for encoder, shape in CASES]
    found = {"units": units, "auto": chosen("auto", CPU)}
    write_result("training_precision", found, rows=rows, of_each_kind=True)


if __name__ == "__main__":
    main()
