"""Every architecture on one small encoder of each of timm's modules, at three sizes.

    python -m benchmarks.architecture_coverage                    all, goes on where it stopped
    python -m benchmarks.architecture_coverage --modules resnet   some, printed, without a record
    python -m benchmarks.architecture_coverage --architectures Unet FPN --modules eva

Built without options and run in eval mode on the meta device, where of all values only positions
are computed. All architectures of an encoder share a process, which is forked for it and has a
limit of memory and time; what it did not come to is tried again, each pair in a process of its own.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from tqdm import tqdm

from benchmarks.common import write_result
from benchmarks.encoders.coverage import SIZES, try_model
from benchmarks.encoders.families import smallest
from benchmarks.isolated import in_process
from segzoo.architectures.base import create_model
from segzoo.errors import SegzooError
from segzoo.registry import BUILT_IN

#: Of a pair; of an encoder's pairs together, so many times as much as one.
SECONDS, TOGETHER = 120, 5


def attempt(name: str, encoder: str) -> dict[str, Any]:
    """A pair: ``ok``, or what went wrong; ``refused`` where segzoo itself said no."""
    began = time.perf_counter()
    refused = False
    try:
        with torch.device("meta"):
            model = create_model(BUILT_IN[name], encoder, classes=3)
        found = try_model(model, "meta", backward=False)
    except SegzooError as error:
        found, refused = f"{type(error).__name__}: {str(error)[:300]}", True
    except Exception as error:  # whatever else is raised is the record
        found = f"{type(error).__name__}: {str(error).strip()[:300]}"
    row = {"result": found, "seconds": round(time.perf_counter() - began, 2)}
    return {**row, "refused": True} if refused else row


def attempts(names: Sequence[str], encoder: str, log: Path) -> int:
    """Each architecture on an encoder; a line in the log for each, so that none is lost."""
    for name in names:
        write(log, name, encoder, attempt(name, encoder))
    return len(names)


def write(log: Path, name: str, encoder: str, row: Mapping[str, Any]) -> None:
    """A line of the log, also behind one that was cut short."""
    line = json.dumps({"architecture": name, "encoder": encoder, **row}) + "\n"
    with log.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read() == b"\n" else "\n" + line
        file.write(line.encode())


def read(log: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What the log has; a line that was cut short is not there."""
    rows = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["architecture"], row["encoder"]] = row
    return rows


def sweep(names: Sequence[str], encoders: Iterable[str], log: Path) -> list[dict[str, Any]]:
    """Try every pair that the log does not have yet."""
    encoders = list(encoders)
    for encoder in tqdm(encoders):
        done = read(log)
        missing = [name for name in names if (name, encoder) not in done]
        if not missing:
            continue
        in_process(attempts, missing, encoder, log, seconds=TOGETHER * SECONDS)
        done = read(log)
        for name in (name for name in missing if (name, encoder) not in done):
            found = in_process(attempt, name, encoder, seconds=SECONDS)
            row = {"result": found} if isinstance(found, str) else found
            write(log, name, encoder, row)
    rows = read(log)
    return [rows[name, encoder] for encoder in encoders for name in names]


def report(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many pairs work, by architecture, and what is said of each that does not."""
    works = collections.Counter(row["architecture"] for row in rows if row["result"] == "ok")
    names = list(dict.fromkeys(row["architecture"] for row in rows))
    return {
        "sizes": [f"{height}x{width}" for height, width in SIZES],
        "encoders": len({row["encoder"] for row in rows}),
        "pairs": len(rows),
        "works_at_all_sizes": sum(works.values()),
        "works_by_architecture": {name: works[name] for name in names},
        "refused": sum(bool(row.get("refused")) for row in rows),
        "exceptions": [dict(row) for row in rows if row["result"] != "ok"],
        "seconds": round(sum(row.get("seconds", 0) for row in rows)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, sweep, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--architectures", nargs="+", choices=BUILT_IN, default=list(BUILT_IN))
    parser.add_argument("--modules", nargs="+", choices=timm.list_modules(), metavar="MODULE")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    modules = {smallest(module): module for module in given.modules or timm.list_modules()}
    log = Path(f".architectures-{timm.__version__}.jsonl")
    found = sweep(given.architectures, modules, log)
    rows = [{"module": modules[row["encoder"]], **row} for row in found]
    result = report(rows)
    if given.modules or len(given.architectures) < len(BUILT_IN):
        print(json.dumps(result, indent=1))
        return
    print(result["works_at_all_sizes"], "of", result["pairs"])
    write_result("architecture_coverage", result, rows=rows)


if __name__ == "__main__":
    main()
