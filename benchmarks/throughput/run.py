"""Images per second of whole models, beside the rivals' at their best.

    python -m benchmarks.throughput.run                 # within nine minutes
    python -m benchmarks.throughput.run --full --minutes 120
    python -m benchmarks.throughput.run --cpu           # on the CPU, although there is a GPU

Every implementation has the same weights, is compared with float64 before it is timed, and takes
turns with the others. What is timed is a call of the whole model; the images are on its device.
A record, a table and a plot are written; the table is printed last. Without a GPU the CPU is
measured, and the record says so; nothing is extrapolated.

On a machine without network, fetch the rivals elsewhere and say ``--wheels wheels`` here:

    pip download --no-deps -d wheels segmentation-models-pytorch==0.6.0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import segzoo

from ..common import RESULTS, environment, put_aside
from .card import facts
from .report import plot, report
from .settings import CPU, CPU_FULL, GPU, GPU_FULL, PRECISIONS, TASKS, Setting

IMAGES = RESULTS.parents[1] / "docs" / "images"
#: Seconds after the end of its time at which a process is stopped from outside.
_GRACE = 40.0
#: Seconds that a setting's rounds may take, by device.
_LIMIT = {"cpu": 40.0, "cuda": 20.0}


def run(
    settings: Sequence[Setting], *, minutes: float, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure settings, in their order, until the time is used up.

    Settings of one number of threads share a process; where one kills it, the next goes on in
    another.

    Args:
        settings: What to measure.
        minutes: None begins after these.
        options: Keyword arguments of :func:`benchmarks.throughput_child.measure`.

    Returns:
        ``results`` and ``left_out``, the latter with reasons.
    """
    deadline = time.monotonic() + minutes * 60
    results: dict[int, dict[str, Any]] = {}
    left_out: dict[int, str] = {}
    pending = list(enumerate(settings))
    while pending:
        threads = pending[0][1].threads
        group = [item for item in pending if item[1].threads == threads]
        left = deadline - time.monotonic()
        events = _child(group, left, options) if left > options["limit"] else []
        results |= {event["ends"]: event["result"] for event in events if "ends" in event}
        begun = {event["begins"] for event in events if "begins" in event}
        left_out |= {event["fails"]: event["reason"] for event in events if "fails" in event}
        died = begun - results.keys() - left_out.keys()
        left_out |= dict.fromkeys(died, "the process was stopped, or stopped itself")
        if not begun:
            used = deadline - time.monotonic() < options["limit"]
            reason = "the time was used up" if used else "the measuring process did not start"
            left_out |= {i: reason for i, _ in group}
        pending = [item for item in pending if item[0] not in results | left_out]
    return {
        "results": [results[i] for i in sorted(results)],
        "left_out": {str(settings[i]): left_out[i] for i in sorted(left_out)},
    }


def _child(
    group: Sequence[tuple[int, Setting]], seconds: float, options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What a process says of the settings that it got to."""
    threads = group[0][1].threads
    environ = dict(os.environ)
    if threads:
        environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events"
        events.touch()
        job = {
            "events": str(events),
            "threads": threads,
            "seconds": seconds,
            "options": dict(options),
            "settings": [(i, setting.as_json()) for i, setting in group],
        }
        command = [sys.executable, "-m", "benchmarks.throughput.child"]
        try:
            subprocess.run(
                command,
                input=json.dumps(job),
                text=True,
                env=environ,
                timeout=max(seconds, 0) + _GRACE,
                stdout=2,  # what libraries print goes to stderr; the table has stdout for itself
            )
        except subprocess.TimeoutExpired:
            print(f"stopped after {seconds + _GRACE:.0f} s", file=sys.stderr)
        return [json.loads(line) for line in events.read_text().splitlines() if line.endswith("}")]


def install(wheels: Path, folder: Path) -> None:
    """Put the rivals' wheels where the measuring processes find them; nothing else is touched."""
    found = sorted(map(str, wheels.glob("*.whl")))
    if not found:
        raise SystemExit(f"There is no wheel in {wheels}.")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", str(folder), *found], check=True)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    sys.path.insert(0, str(folder))  # for the versions in the record


def sources() -> str:
    """A hash of the package's files: what was measured, where there is no git to say so."""
    found = hashlib.sha256()
    package = Path(segzoo.__file__).parent
    for path in sorted(package.rglob("*.py")):
        found.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def chosen(arguments: argparse.Namespace, device: str) -> list[Setting]:
    """The set that was asked for, narrowed or changed by the other options."""
    sets = {"cpu": (CPU, CPU_FULL), "cuda": (GPU, GPU_FULL)}
    settings = list(sets[device][arguments.full])[arguments.skip :]
    changes: dict[str, Any] = {
        name: value
        for name in ("encoder", "batch", "precision", "threads", "task")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.size:
        changes["size"] = (arguments.size, arguments.size)
    return list(dict.fromkeys(replace(setting, **changes) for setting in settings))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9, help="no setting begins after these")
    parser.add_argument("--full", action="store_true", help="all encoders, sizes and precisions")
    parser.add_argument("--cpu", action="store_true", help="the CPU's set, whatever there is")
    parser.add_argument("--skip", type=int, default=0, help="so many settings at the beginning")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, help="seconds for the rounds of a setting")
    parser.add_argument("--only", default="*", help='implementations by name, as "smp *"')
    parser.add_argument("--encoder", help="this one in every setting; also the options below")
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--precision", choices=PRECISIONS)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--wheels", type=Path, help="folder with the rivals' wheels")
    parser.add_argument("--commit", help="of the sources, where they are no git checkout")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of record and table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the record, the plot and the table, and print the table."""
    options = parse(arguments)
    device = "cuda" if torch.cuda.is_available() and not options.cpu else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        if options.wheels:
            install(options.wheels, Path(folder))
        began = time.monotonic()
        found = run(
            chosen(options, device),
            minutes=options.minutes,
            options={
                "device": device,
                "rounds": options.rounds,
                "limit": options.limit or _LIMIT[device],
                "only": options.only,
            },
        )
        where = environment()
        where |= {"card": card} if (card := facts()) else {}
        where["sources"] = sources()
    if threads := sorted({result["setting"]["threads"] or 0 for result in found["results"]}):
        where["threads"] = " and ".join(map(str, threads)) if threads[0] else where["threads"]
    if options.commit:
        where["commit"] = options.commit
    record = {
        "environment": where,
        "gpu": where["gpu"] if device == "cuda" else "not measured",
        "minutes": round((time.monotonic() - began) / 60, 1),
        **found,
    }
    name = "throughput_gpu" if device == "cuda" else "throughput_cpu"
    options.out.mkdir(parents=True, exist_ok=True)
    put_aside(options.out / f"{name}.json", where)
    (options.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    text = report(record)
    if options.out == RESULTS:  # the documentation makes its table from the record
        plot(record, IMAGES / f"{name}.png")
    else:
        (options.out / f"{name}.md").write_text(text)
        plot(record, options.out / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
