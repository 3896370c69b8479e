"""Each architecture that smp has too, in turn with smp's, on a CPU.

    python -m benchmarks.architecture_speed                  all of them, goes on where it stopped
    python -m benchmarks.architecture_speed --threads 1 2    with one thread, then with two
    python -m benchmarks.architecture_speed --only FPN PAN   some, printed, without a record

float32, one image of 512x512, random weights that are the same in both; outputs are compared with
float64 before anything is timed. Two comparisons: both as they are, and ``segzoo.optimize`` beside
the fastest of smp's: compiled, channels last and with frozen weights, or merely channels last (the
compiler gives wrong logits for some). Each is a run of ``benchmarks.throughput.run`` in a process
of its own; what failed is tried again when the script runs again. The encoder is resnet34, or the
next of ``ENCODERS`` where smp has no such model on it.

Two models that do the same differ by a few percent from run to run. What no noise touches is beside
the times: how many operations both do as they are, and how much memory they allocate for it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import write_result
from benchmarks.throughput.run import run
from benchmarks.throughput.settings import Setting
from segzoo.bench import make_pair
from segzoo.convert.smp.architecture import rival
from segzoo.registry import BUILT_IN

ENCODERS = ("resnet34", "vit_tiny_patch16_224")
SIZE = 512
#: Ours, and smp's of whose fastest it is compared with: names of ``throughput.candidates``.
COMPARISONS = {
    "eager": ("segzoo eager", "smp eager"),
    "optimized": ("segzoo optimize", "smp compiled, frozen", "smp channels_last"),
}
#: smp's classes that are here, by our names.
NAMES = {name: arch for name, arch in BUILT_IN.items() if rival(arch) is not None}


def measure(name: str, threads: int, *, rounds: int, limit: float) -> dict[str, Any]:
    """A row: both comparisons on the first encoder on which smp has the architecture."""
    row: dict[str, Any] = {"architecture": name, "threads": threads}
    for encoder in ENCODERS:
        setting = Setting(encoder, (SIZE, SIZE), 1, arch=NAMES[name], threads=threads)
        for title, names in COMPARISONS.items():
            options = {"device": "cpu", "rounds": rounds, "limit": limit, "only": names}
            found = run([setting], minutes=30, options=options)
            row |= {"encoder": encoder, title: compared(found, *names)}
            if row[title].get("no_rival"):
                break
        else:
            return row
    return row


def compared(found: dict[str, Any], ours: str, *theirs: str) -> dict[str, Any]:
    """Times and their ratio, the median over rounds; or the reason why there is none."""
    if not found["results"]:
        return {"failed": next(iter(found["left_out"].values()))}
    (result,) = found["results"]
    if result["no_rival"]:
        return {"no_rival": result["no_rival"]}
    ways, best = result["ways"], result["best_rival"]
    wrong = {name: row["not_timed"] for name, row in ways.items() if "ms" not in row}
    if ours in wrong or best is None:
        name = ours if ours in wrong else theirs[0]
        return {"failed": f"{name}: {wrong[name]}"}
    return {
        "segzoo_ms": ways[ours]["ms"],
        "smp_ms": ways[best]["ms"],
        "rival": best,
        "ratio": ways[ours]["to_best_rival"],
        "difference": ways[ours]["difference"],
        "build_s": [ways[ours]["build_s"], ways[best]["build_s"]],
        **({"not_timed": wrong} if wrong else {}),
    }


def work(name: str, encoder: str, *, size: int = SIZE) -> dict[str, Any]:
    """What a forward of ours and of smp's does, as they are: GFLOPs, and MiB that it allocates."""
    torch.manual_seed(0)
    pair = make_pair(encoder, NAMES[name], (size, size))
    if pair.theirs is None:
        return {"no_rival": pair.reason}
    image = torch.rand(1, 3, size, size)
    (ours, our_mib), (theirs, their_mib) = (
        _work(model, image) for model in (pair.ours, pair.theirs)
    )
    return {"gflops": [ours, theirs], "allocated_mib": [our_mib, their_mib]}


@torch.no_grad()
def _work(model: nn.Module, image: Tensor) -> tuple[float, float]:
    with FlopCounterMode(display=False) as operations:
        model(image)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        model(image)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in measured.events())
    return round(operations.get_total_flops() / 2e9, 3), round(allocated / 2**20, 1)


def sweep(names: Iterable[str], threads: Sequence[int], log: Path, **options: Any) -> list[Any]:
    """Measure what the log does not have yet; it grows by a line for each architecture."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        row = json.loads(line)
        if not any("failed" in row.get(title, {}) for title in COMPARISONS):
            rows[row["architecture"], row["threads"]] = row
    wanted = [(name, count) for count in threads for name in names]
    for name, count in wanted:
        if (name, count) in rows:
            continue
        rows[name, count] = row = measure(name, count, **options)
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        ratios = [row[title].get("ratio", row[title]) for title in COMPARISONS if title in row]
        print(name, f"{count} threads", *ratios, flush=True)
    return [rows[pair] for pair in wanted]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and least ratio of each comparison, by the number of threads."""
    found: dict[str, Any] = {}
    for threads in dict.fromkeys(row["threads"] for row in rows):
        for title in COMPARISONS:
            ratios = [
                row[title]["ratio"]
                for row in rows
                if row["threads"] == threads and "ratio" in row.get(title, {})
            ]
            if ratios:
                key = f"{title}, {threads} thread{'s' if threads > 1 else ''}"
                middle = round(statistics.median(ratios), 3)
                found[key] = {"median": middle, "least": min(ratios), "of": len(ratios)}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, help="these, without a record")
    parser.add_argument("--threads", nargs="+", type=int, default=[os.cpu_count() or 1])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=40.0, help="seconds for the rounds")
    given = parser.parse_args(arguments)
    log = Path(f".architecture-speed-{torch.__version__}.jsonl")
    if given.only:
        log = Path(os.devnull)
    options = {"rounds": given.rounds, "limit": given.limit}
    rows = sweep(given.only or NAMES, given.threads, log, **options)
    for row in rows:
        row["work"] = work(row["architecture"], row["encoder"])
    print(json.dumps(summary(rows), indent=1))
    if given.only:
        print(json.dumps(rows, indent=1))
    else:
        result = {"size": SIZE, "batch": 1, "rounds": given.rounds, "summary": summary(rows)}
        write_result("architecture_speed", result, rows=rows)


if __name__ == "__main__":
    main()
