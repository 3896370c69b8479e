"""What every benchmark needs: its environment, fair timing of two candidates, a record on disk."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "timm",
    "huggingface_hub",
    "safetensors",
    "segmentation_models_pytorch",
    "fastai",
)


def environment() -> dict[str, Any]:
    """Where a measurement was made: machine, versions, commit."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": COMMIT,
    }


def write_result(
    name: str, record: Mapping[str, Any], *, rows: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Write ``results/<name>.json``: the environment, the record, and ``rows``, a line for each."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({"environment": environment(), **record}, indent=1)
    if rows:
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        text = text.removesuffix("\n}") + f',\n "rows": [\n{lines}\n ]\n}}'
    path.write_text(text + "\n")
    print(f"wrote {path}")
    return path


def in_turn(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """Time the candidates one after the other, round by round, so that drift hits all alike.

    Returns:
        For each the median, the least and the greatest time in milliseconds.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(warmup + rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if i >= warmup:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: summary(values) for name, values in times.items()}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest, rounded to what the clock can tell."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


#: When the script began: what is committed while it runs is not what it measures.
COMMIT = _commit()
