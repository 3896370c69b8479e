"""What ``segzoo.optimize`` does with the smallest encoder of each of timm's modules.

    python -m benchmarks.optimized           all of them, resumes where it stopped
    python -m benchmarks.optimized resnet    only looked at: printed, and no record is written

Nothing is timed, but for the candidates that optimize itself chooses from. Logits in float32 are
compared with the plain model's in float64, for an image of the shape that it was optimised for and
for two others, one of them with odd sides; and so are the plain model's own in float32. Each model
has a process of its own with a time and a memory limit.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import timm
import torch
from tqdm import tqdm

import segzoo
from benchmarks.common import randomise, write_result
from benchmarks.encoders.families import smallest
from benchmarks.isolated import in_process
from segzoo.timing import largest_difference

SHAPE = (1, 3, 96, 128)
OTHERS = ((2, 3, 65, 97), (1, 3, 128, 96))
#: Compiling nothing, most take seconds; the largest of them is run in float64 too.
SECONDS = 600


def optimized(name: str) -> dict[str, Any]:
    """The row of an encoder: what was done, and how far off the logits are, of the largest one.

    Raises:
        OptimizationError: They are too far off.
    """
    torch.manual_seed(0)
    model = segzoo.Unet(name, classes=3)
    randomise(model)
    model.eval()
    fast = segzoo.optimize(model, example=torch.rand(SHAPE))
    exact = copy.deepcopy(model).double()
    gaps, plain = [], []
    for shape in (SHAPE, *OTHERS):
        image = torch.rand(shape)
        with torch.no_grad():
            logits = exact(image.double())
            gaps.append(largest_difference(fast(image), logits))
            plain.append(largest_difference(model(image), logits))
    chosen = [item.detail for item in fast.passes if item.name == "autotune"]
    return {
        "encoder": name,
        "passes": [item.name for item in fast.passes if item.applied],
        "ways": chosen[0],
        "difference": max(gaps),
        "plain_difference": max(plain),
    }


def sweep(log: Path) -> list[dict[str, Any]]:
    """Every module that the log does not have yet; the log grows by a line for each."""
    rows: dict[str, dict[str, Any]] = {}
    if log.exists():
        rows = {row["module"]: row for row in map(json.loads, log.read_text().splitlines())}
    for module in tqdm(timm.list_modules()):
        if module in rows:
            continue
        found = in_process(optimized, smallest(module), seconds=SECONDS)
        rows[module] = {"module": module, **({"error": found} if isinstance(found, str) else found)}
        with log.open("a") as file:
            file.write(json.dumps(rows[module]) + "\n")
    return [rows[module] for module in timm.list_modules()]


def main() -> None:
    """Parse, sweep, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", nargs="?", help="only this one, without a record")
    module = parser.parse_args().module
    torch.set_num_threads(1)
    if module:
        print(json.dumps(in_process(optimized, smallest(module), seconds=SECONDS), indent=1))
        return
    rows = sweep(Path(f".optimized-{timm.__version__}.jsonl"))
    done = [row for row in rows if "error" not in row]
    summary = {
        "modules": len(rows),
        "optimized": len(done),
        "folded": sum("fold batch norm" in row["passes"] for row in done),
        "rewritten": sum("rewrite decoder" in row["passes"] for row in done),
        "largest_difference": max(row["difference"] for row in done),
        "largest_plain_difference": max(row["plain_difference"] for row in done),
    }
    print(json.dumps(summary))
    write_result("optimized", summary, rows=rows)


if __name__ == "__main__":
    main()
