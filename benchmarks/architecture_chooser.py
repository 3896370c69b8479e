"""How many images a second each architecture takes on a CPU, on three kinds of encoders.

    python -m benchmarks.architecture_chooser                  all, goes on where it stopped
    python -m benchmarks.architecture_chooser --only Unet FPN  some, printed, without a record

One image of 512x512 with 19 classes, float32, random weights: the model as it is, and what
``segzoo.optimize`` makes of it, in turn. Encoders, size and classes are those of
``benchmarks.architectures``, which counts weights and operations; docs/architectures.md shows both.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.architectures import CLASSES, ENCODERS, SIZE
from benchmarks.common import write_result
from segzoo.architectures.base import create_model
from segzoo.bench import eager, optimized, settle
from segzoo.errors import SegzooError
from segzoo.registry import BUILT_IN
from segzoo.timing import in_turn

#: Of each way, at most; and the seconds after which no round begins, once there were three.
ROUNDS, LIMIT = 7, 8.0


def measure(name: str, encoder: str, *, size: int = SIZE) -> dict[str, Any]:
    """Images a second, from the median of the rounds, of the plain and of the optimised model.

    Or why there is no such model.
    """
    row: dict[str, Any] = {"architecture": name, "encoder": encoder}
    torch.manual_seed(0)
    image = torch.randn(1, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what timm builds on
        try:
            model = create_model(BUILT_IN[name], encoder, CLASSES)
        except SegzooError as error:
            return row | {"refused": str(error)}
        settle(model, torch.randn(2, 3, size, size))
        model.eval()
        calls = {
            "eager": eager(model, image, torch.float32),
            "optimized": optimized(model, image, torch.float32),
        }
        timings = in_turn(calls, rounds=ROUNDS, warmup=2, limit=LIMIT)
    return row | {
        way: {"images_per_second": round(1e3 / timing.median, 2), "ms": timing.summary()}
        for way, timing in timings.items()
    }


def sweep(names: Iterable[str], log: Path) -> list[dict[str, Any]]:
    """Measure every pair that the log does not have yet; it grows by a line for each."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        row = json.loads(line)
        rows[row["architecture"], row["encoder"]] = row
    wanted = [(name, encoder) for name in names for encoder in ENCODERS]
    for pair in wanted:
        if pair in rows:
            continue
        rows[pair] = measure(*pair)
        with log.open("a") as file:
            file.write(json.dumps(rows[pair]) + "\n")
        print(rows[pair], flush=True)
    return [rows[pair] for pair in wanted]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=BUILT_IN, help="these, without a record")
    given = parser.parse_args(arguments)
    if given.only:
        sweep(given.only, Path("/dev/null"))
        return
    threads = torch.get_num_threads()
    rows = sweep(BUILT_IN, Path(f".architecture-chooser-{torch.__version__}-{threads}.jsonl"))
    write_result("architecture_chooser", {"size": SIZE, "classes": CLASSES}, rows=rows)


if __name__ == "__main__":
    main()
