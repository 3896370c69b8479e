"""DynamicUnet against fastai's own, on the same weights: every option set, encoder and size.

    python -m benchmarks.parity.fastai

Random weights and BatchNorm statistics of fastai's model are converted into ours; the largest
absolute difference of the outputs in float32 and eval mode is taken at four sizes, and that of
losses, gradients and buffers in a training step at one. A resnet50 makes a model of 339 million
parameters, so it is run with the defaults only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from benchmarks.common import write_result
from benchmarks.parity.fastai_models import CASES, Case, eval_difference, make_pair, step_difference

SIZES = ((256, 256), (250, 317), (33, 47), (97, 255))


def cases() -> list[Case]:
    """The grid."""
    small = [Case(), Case(bands=1), Case(bands=4), *CASES]
    grid = [replace(case, encoder=name) for name in ("resnet18", "resnet34") for case in small]
    return [*grid, Case("resnet50")]


def measure(case: Case) -> dict[str, Any]:
    """One row of the record."""
    theirs, ours = make_pair(case)
    return {
        "case": str(case),
        "eval": {
            f"{h}x{w}": eval_difference(theirs, ours, (1, case.bands, h, w)) for h, w in SIZES
        },
        "training_step_33x47": step_difference(theirs, ours, (2, case.bands, 33, 47), steps=1),
    }


def main() -> None:
    """Run the grid and write the record."""
    torch.manual_seed(0)
    rows = []
    for case in cases():
        rows.append(measure(case))
        print(rows[-1], flush=True)
    worst = max(
        difference
        for row in rows
        for difference in (*row["eval"].values(), *row["training_step_33x47"].values())
    )
    print(f"largest difference of {len(rows)} cases: {worst}")
    write_result("dynamic_parity", {"largest_difference": worst, "cases": rows})


if __name__ == "__main__":
    main()
