"""A million names: what it takes to list them, to name their results and to know what is done.

    python -m benchmarks.listing [--count 1000000] [--folder DIR]

Empty files are made in a temporary folder, once all in one folder, and once in folders of a
thousand. Each measurement is a process of its own: ``listing`` goes through all jobs; ``shard``
through a sixteenth of them; ``manifest`` through all with a manifest that says each is done, so
that results are looked for one by one (and are not there); ``plain`` lists one folder without
``--recursive``, and looks for results that would be in the way. Memory is the peak of the process,
beside what it had when everything was imported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .common import RESULTS, write_result

WAYS = ("listing", "shard", "manifest", "plain")
SHARD = (3, 16)


def make(root: Path, count: int, each: int) -> None:
    """Empty files, so many in each folder."""
    for begin in range(0, count, each):
        folder = root / f"{begin // each:04d}"
        folder.mkdir(parents=True)
        place = str(folder)
        for index in range(begin, min(begin + each, count)):
            os.close(os.open(f"{place}/picture_{index:07d}.jpg", os.O_CREAT | os.O_WRONLY))


def status(entry: str) -> float:
    """An entry of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


def measure(way: str, root: Path, manifest: Path) -> dict[str, Any]:
    """Go through all jobs, in this process."""
    from segzoo.data.pictures import find_pictures
    from segzoo.folders.choice import Chosen
    from segzoo.folders.jobs import check_outputs, plan_jobs
    from segzoo.folders.listing import FolderJobs
    from segzoo.folders.manifest import Manifest
    from segzoo.folders.shards import Shard
    from segzoo.folders.task import Task

    importlib.import_module("segzoo.folders.worker")  # what a run imports besides
    before = status("VmRSS")
    began, cpu = time.perf_counter(), time.process_time()
    shard = Shard(*SHARD) if way == "shard" else None
    out = Path("/nonexistent/out")
    jobs: Any = FolderJobs([root], out, shard=shard)
    if way == "plain":
        jobs = plan_jobs(find_pictures([root]), out)
        check_outputs(jobs, Task("model").ending, overwrite=False)
    if way == "manifest":
        record = Manifest(manifest, {"model": "a million"})
        jobs = Chosen(jobs, Task("model"), print, record=record)
    count = sum(1 for _ in jobs)
    return {
        "way": way,
        "jobs": count,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "imported_mib": round(before),
        "peak_mib": round(status("VmHWM")),
        "rise_mib": round(status("VmHWM") - before),
    }


def write_manifest(path: Path, root: Path) -> None:
    """A line for each picture: it was done."""
    with path.open("w") as file:
        file.write(json.dumps({"run": {"model": "a million"}}) + "\n")
        for folder, _, names in os.walk(root):
            for name in names:
                image = f"{folder}/{name}"
                line = {"image": image, "mask": f"{image}.png", "shares": {"sky": 1.0}}
                file.write(json.dumps(line) + "\n")


def main() -> None:
    """Measure in other processes, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, root, manifest = arguments.measure
        print(json.dumps(measure(way, Path(root), Path(manifest))))
        return
    RESULTS.mkdir(exist_ok=True)
    rows = []
    for each in (arguments.count, 1000):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
            root, manifest = Path(place) / "scans", Path(place) / "run.jsonl"
            make(root, arguments.count, each)
            write_manifest(manifest, root)
            for way in WAYS if each == arguments.count else WAYS[:-1]:
                command = [sys.executable, "-m", "benchmarks.listing", "--measure", way]
                command += [str(root), str(manifest)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append({"files_in_a_folder": each, **json.loads(done.stdout)})
                print(rows[-1], flush=True)
    write_result("listing", {"files": arguments.count, "shard": list(SHARD)}, rows=rows)


if __name__ == "__main__":
    main()
