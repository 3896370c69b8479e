"""What every benchmark needs: its environment, and a record on disk."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from segzoo.inference.timing import Timing

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "timm",
    "huggingface_hub",
    "safetensors",
    "segmentation_models_pytorch",
    "fastai",
    "triton",
    "onnxruntime",
    "openvino",
)


def environment() -> dict[str, Any]:
    """Where a measurement was made: machine, versions, commit."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": _driver(),
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


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of milliseconds, rounded to what the clock can tell."""
    return Timing(tuple(values)).summary()


def _driver() -> str | None:
    """Of an NVIDIA card."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.strip().partition("\n")[0] or None


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
