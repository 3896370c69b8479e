"""How well and how fast ``segzoo demo`` learns the coins, for three seeds.

python -m benchmarks.demo_iou
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from segzoo.demo import DemoResult, run_demo

SEEDS = (0, 1, 2)


def measure(seed: int) -> dict[str, Any]:
    """One run of the demo as it is by default, but for the seed."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_demo(out=Path(folder), seed=seed)
    print(f"seed {seed}: IoU {result.iou:.4f} in {result.cpu_seconds:.0f} s of processor")
    return _record(result)


def _record(result: DemoResult) -> dict[str, Any]:
    record = asdict(result)
    losses = record.pop("losses")
    for name in ("model_folder", "mask", "picture"):  # gone with the temporary folder
        record.pop(name)
    return record | {
        "steps": record["steps"],
        "loss_first": round(losses[0], 4),
        "loss_last": round(losses[-1], 4),
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(result.cpu_seconds, 1),
    }


def main() -> None:
    """Measure and write the record."""
    runs = [measure(seed) for seed in SEEDS]
    write_result("demo_iou", {"least_iou": min(run["iou"] for run in runs), "runs": runs})


if __name__ == "__main__":
    main()
