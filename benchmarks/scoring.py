"""What scores and losses cost beside the calls that nobody can do without.

    python -m benchmarks.scoring [--threads 1]

Logits and masks are random, of 11 classes with a tenth of void. Scores are those of one image of
360x480 in the meter, beside the bilinear resize that brings logits of a quarter of the size there;
losses are forward and backward of a batch, with the bytes that autograd keeps for the gradient.
Times are those of the processor, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import segzoo
from benchmarks.common import summary, write_result

CLASSES, VOID = 11, 255
SIZE, SMALL = (360, 480), (90, 120)
BATCH = 8
ROUNDS = 15


def mask(images: int, size: tuple[int, int]) -> Tensor:
    """Blocks of classes, as masks of photographs have them, and void."""
    small = torch.randint(0, CLASSES, (images, size[0] // 10, size[1] // 10))
    target = small.repeat_interleave(10, 1).repeat_interleave(10, 2)
    target[:, : size[0] // 10] = VOID
    return target


def scoring() -> dict[str, Callable[[], Any]]:
    """Ways to score one image."""
    logits, target = torch.randn(1, CLASSES, *SIZE), mask(1, SIZE)
    small = torch.randn(1, CLASSES, *SMALL)

    def score(**options: bool) -> None:
        meter = segzoo.ScoreMeter(CLASSES, ignore_index=VOID, **options)
        meter.update(logits, target)

    return {
        "resize of the logits": lambda: F.interpolate(small, size=SIZE, mode="bilinear"),
        "argmax of torch": lambda: logits.argmax(dim=1),
        "confusion matrix": functools.partial(score, boundaries=False, calibration=False),
        "and boundaries": functools.partial(score, calibration=False),
        "and calibration": functools.partial(score, boundaries=False),
        "all scores": score,
    }


def by_one_hot(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy and Dice as they are mostly written, void masked."""
    valid = target != VOID
    classes = target.masked_fill(~valid, 0)
    truth = F.one_hot(classes, CLASSES).permute(0, 3, 1, 2) * valid[:, None]
    probability = logits.softmax(dim=1) * valid[:, None]
    overlap = (probability * truth).sum(dim=(0, 2, 3))
    total = (probability + truth).sum(dim=(0, 2, 3))
    dice = (2 * overlap + 1) / (total + 1)
    return F.cross_entropy(logits, target, ignore_index=VOID) + 1 - dice.mean()


def losses() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Losses of a batch."""
    off = {"cross_entropy": 0.0, "dice": 0.0}
    made = {
        "cross-entropy": {"dice": 0.0},
        "cross-entropy and Dice": {},
        "focal": {**off, "focal": 1.0},
        "boundary": {**off, "boundary": 1.0},
        "Lovász-Softmax": {**off, "lovasz": 1.0},
    }
    return {
        "cross-entropy of torch": functools.partial(F.cross_entropy, ignore_index=VOID),
        "cross-entropy and Dice by one-hot": by_one_hot,
        **{
            name: segzoo.losses.SegmentationLoss(ignore_index=VOID, **options)
            for name, options in made.items()
        },
    }


def kept(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, each storage once."""
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(logits, target).backward()
    return sum(found.values())


def processor_ms(calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Milliseconds of the processor for each call, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:  # the first one warms up
                times[name].append(1e3 * (time.process_time() - start))
    return times


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for name, times in processor_ms(scoring()).items():
        rows.append({"of": "one image", "name": name, "ms": summary(times)})
    logits, target = torch.randn(BATCH, CLASSES, *SMALL, requires_grad=True), mask(BATCH, SMALL)
    calls = losses()
    steps = {
        name: (lambda loss=loss: loss(logits, target).backward()) for name, loss in calls.items()
    }
    for name, times in processor_ms(steps).items():
        rows.append(
            {
                "of": "a batch",
                "name": name,
                "ms": summary(times),
                "copies_kept": round(kept(calls[name], logits, target) / logits.nbytes, 2),
            }
        )
    for row in rows:
        print(row)
    sizes = {"classes": CLASSES, "image": SIZE, "batch": [BATCH, *SMALL], "rounds": ROUNDS}
    write_result("scoring", sizes, rows=rows)


if __name__ == "__main__":
    main()
