"""What every benchmark needs: its environment, and a record on disk."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from segzoo.environment.machine import find_machine
from segzoo.nn.recomputed_norm import Again, RecomputedNorms
from segzoo.timing import Timing

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
    "transformers",
    "openvino",
    "monai",
    "rasterio",
)


def environment() -> dict[str, Any]:
    """Where a measurement was made: machine, versions, commit."""
    machine = find_machine()
    return {
        "cpu": machine.processor,
        "instructions": list(machine.instructions),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": _driver(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": COMMIT,
    }


def write_result(
    name: str,
    record: Mapping[str, Any],
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    of_each_kind: bool = False,
) -> Path:
    """Write ``results/<name>.json``: the environment, the record, and ``rows``, a line for each.

    Where records are kept ``of_each_kind`` of processor, that of another kind is put aside.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    where = environment()
    if of_each_kind:
        put_aside(path, where)
    text = json.dumps({"environment": where, **record}, indent=1)
    if rows:
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        text = text.removesuffix("\n}") + f',\n "rows": [\n{lines}\n ]\n}}'
    path.write_text(text + "\n")
    print(f"wrote {path}")
    return path


def put_aside(path: Path, where: Mapping[str, Any]) -> None:
    """Keep the record of another card or kind of processor, under its name."""
    before = json.loads(path.read_text())["environment"] if path.exists() else where
    if of_another_kind(before, where):
        kind = "gpu" if where["gpu"] else "cpu"
        words = [before[kind], *(before.get("instructions", ()) if kind == "cpu" else ())]
        label = re.sub(r"[^a-z0-9]+", "_", " ".join(words).lower()).strip("_")
        path.rename(path.with_name(f"{path.stem}_{label}.json"))


def of_another_kind(before: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether two environments have other cards, or other processors without one."""
    if where["gpu"]:
        return bool(before["gpu"] != where["gpu"])
    found = before.get("instructions", where["instructions"])  # older records do not tell
    return bool(before["cpu"] != where["cpu"] or found != where["instructions"])


def written(name: str, *, of_each_kind: bool = False) -> dict[str, Any]:
    """The record of that name, which a script goes on with; an empty one where there is none.

    Where records are kept ``of_each_kind`` of processor, it is one of this machine's.
    """
    path = RESULTS / f"{name}.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if of_each_kind and record and of_another_kind(record["environment"], environment()):
        return {}
    return record


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, least and greatest of scores that have four digits."""
    return {
        "mean": round(statistics.mean(values), 4),
        "least": min(values),
        "greatest": max(values),
    }


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


def saved_activations(model: nn.Module, image: Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, without the weights.

    Every storage counts once, however many tensors share it.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is used twice
        return tensor

    # Inner hooks hide what they keep from those outside.
    inner = RecomputedNorms.keep

    def keep(norms: RecomputedNorms, tensor: Tensor) -> Tensor | Again:
        kept = inner(norms, tensor)
        pack(kept.before if isinstance(kept, Again) else kept)
        return kept

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        mock.patch.object(RecomputedNorms, "keep", keep),
    ):
        model(image)
    return sum(storages.values())


def peak_rise(run: Callable[[], object]) -> float:
    """By how many MiB a call raises the peak of this process's resident memory; Linux only."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed goes back before we look
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(entry: str) -> float:
    """An entry of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


def randomise(model: nn.Module) -> None:
    """Statistics and affine weights of batch normalisation that a mistake cannot hide behind."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


#: When the script began: what is committed while it runs is not what it measures.
COMMIT = _commit()
