"""Kill trainings at arbitrary moments; they must end with the bits of one that was left alone.

    python -m benchmarks.kill_training

With no workers, with two workers, and with two processes of gloo, each with the model or with a
part of it. The model is next to nothing and the state is saved after each step, so that kills fall
into everything: steps, scores, saves.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.training import killing

from .common import write_result

#: Workers, processes, seconds within which a kill comes, and what else the recipe says.
WAYS: dict[str, tuple[int, int, float, dict[str, Any]]] = {
    "alone": (0, 1, 1.0, {}),
    "two workers": (2, 1, 1.5, {}),
    "two processes": (0, 2, 2.5, {}),
    "two processes, a part each": (0, 2, 4.0, {"sharding": "full"}),
}
#: A training is killed so often before it may end; then the next one begins.
_KILLS_EACH = 5


def measure(
    workers: int, ranks: int, longest: float, more: dict[str, Any], kills: int
) -> dict[str, Any]:
    """Kill until there were that many kills, and compare each end."""
    chance, done, ends, equal = random.Random(0), 0, 0, 0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        killing.finish(killing.start(whole, workers, ranks, **more))
        while done < kills:
            out = Path(folder) / f"killed{ends}"
            wanted = min(_KILLS_EACH, kills - done)
            done += killing.killed_often(out, workers, ranks, wanted, chance, longest, **more)
            ends += 1
            equal += killing.same(whole, out)
    return {
        "kills": done,
        "trainings": ends,
        "bit_equal_ends": equal,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    arguments = parser.parse_args()
    record = {}
    for name, way in WAYS.items():
        record[name] = measure(*way, arguments.kills)
        print(name, record[name], flush=True)
    write_result("kill_training", {"recipe": killing.RECIPE, "ways": record})


if __name__ == "__main__":
    main()
