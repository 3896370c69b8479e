"""What ``segzoo.encoder_info`` says of each of timm's architectures.

    python -m benchmarks.encoders.describe            every architecture, goes on where it stopped
    python -m benchmarks.encoders.describe "resnet*"  printed only, no record is written

Each one is described in a process of its own with a time and a memory limit. docs/encoders.md
shows the record as a table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.utils.flop_counter  # takes a while: once here, instead of once in each process
from tqdm import tqdm

import segzoo
from benchmarks.common import write_result
from benchmarks.isolated import in_process


def describe(name: str) -> dict[str, Any]:
    """The row of an architecture: what its decoder, its user and their lawyer ask."""
    info = segzoo.encoder_info(name)
    return {
        "name": name,
        "parameters": info.parameters,
        "gflops": info.gflops and round(info.gflops, 3),
        "gflops_size": info.gflops_size,
        "strides": info.strides,
        "channels": info.channels,
        "size_rule": str(info.size_rule),
        "license": info.license,
        "pretrained_tags": len(info.pretrained_tags),
    }


def sweep(names: Iterable[str], log: Path) -> list[dict[str, Any]]:
    """Describe every name that the log does not have yet; the log grows by a line for each."""
    rows: dict[str, dict[str, Any]] = {}
    if log.exists():
        rows = {row["name"]: row for row in map(json.loads, log.read_text().splitlines())}
    for name in tqdm(list(names)):
        if name in rows:
            continue
        found = in_process(describe, name)
        rows[name] = {"name": name, "error": found} if isinstance(found, str) else found
        with log.open("a") as file:
            file.write(json.dumps(rows[name]) + "\n")
    return [rows[name] for name in names]


def main() -> None:
    """Parse, sweep, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pattern", nargs="?", help="only these, shell-style, without a record")
    pattern = parser.parse_args().pattern
    torch.set_num_threads(1)
    segzoo.encoder_info("resnet18")  # imports what every process needs
    if pattern:
        for name in timm.list_models(pattern):
            print(json.dumps(in_process(describe, name)))
        return
    rows = sweep(timm.list_models(), Path(f".encoders-{timm.__version__}.jsonl"))
    described = sum("error" not in row for row in rows)
    print(described, "of", len(rows))
    write_result("encoders", {"architectures": len(rows), "described": described}, rows=rows)


if __name__ == "__main__":
    main()
