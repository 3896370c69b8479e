"""Loading a trained Unet-resnet34 from a folder: whole processes, in turn.

    python -m benchmarks.loading

Three processes load the same weights: segzoo's ``from_pretrained``, smp's ``from_pretrained``, and
``torch.load`` of the bare state dict. Each reports the seconds from its start to the loaded model,
and its peak memory; a process that does its imports and nothing else gives what the imports take.
The encoder's ImageNet weights are not on this machine and offline mode is on, so smp's config says
``encoder_weights: null``: as it is written by default, smp cannot load offline at all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch

from benchmarks.common import write_result
from segzoo.convert import from_smp

CHILD = """
import json, re, time
start = time.perf_counter()
{imports}
imported = time.perf_counter()
{load}
done = time.perf_counter()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps({{"total_s": done - start, "load_s": done - imported, "peak_kib": peak}}))
"""
#: Name -> imports, and what is done after them.
PROCESSES = {
    # timm is imported when an encoder is built; here with the rest, as in smp.
    "segzoo": (
        "import segzoo, timm; segzoo.from_pretrained",
        "model = segzoo.from_pretrained({ours!r})",
    ),
    "segzoo, check_finite=False": (
        "import segzoo, timm; segzoo.from_pretrained",
        "model = segzoo.from_pretrained({ours!r}, check_finite=False)",
    ),
    "smp": (
        "import segmentation_models_pytorch as smp",
        "model = smp.from_pretrained({theirs!r})",
    ),
    "torch.load": (
        "import torch",
        "state = torch.load({state!r}, map_location='cpu', weights_only=True)",
    ),
    "imports of segzoo": ("import segzoo, timm; segzoo.from_pretrained", ""),
}


def run(imports: str, load: str) -> dict[str, float]:
    """One fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(imports=imports, load=load)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])  # smp prints, too
    return measured


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as root:
        paths = {name: str(Path(root) / name) for name in ("ours", "theirs", "state")}
        model = smp.Unet("resnet34", encoder_weights=None, classes=3).eval()
        model.save_pretrained(paths["theirs"])
        from_smp(model).save_pretrained(paths["ours"])
        torch.save(model.state_dict(), paths["state"])
        weights = (Path(paths["ours"]) / "model.safetensors").stat().st_size
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in PROCESSES}
        for _ in range(rounds + 1):
            for name, (imports, load) in PROCESSES.items():
                measured[name].append(run(imports, load.format(**paths)))
    middle: dict[str, dict[str, Any]] = {
        name: {key: round(statistics.median(row[key] for row in rows[1:]), 3) for key in rows[0]}
        for name, rows in measured.items()
    }
    ours, theirs, imports = (middle[name] for name in ("segzoo", "smp", "imports of segzoo"))
    summary = {
        "total_time_to_smp": round(ours["total_s"] / theirs["total_s"], 3),
        "load_time_to_smp": round(ours["load_s"] / theirs["load_s"], 3),
        "peak_memory_to_smp": round(ours["peak_kib"] / theirs["peak_kib"], 3),
        "peak_memory_above_imports_to_weights": round(
            (ours["peak_kib"] - imports["peak_kib"]) * 1024 / weights, 3
        ),
        "check_finite_s": round(ours["load_s"] - middle["segzoo, check_finite=False"]["load_s"], 3),
    }
    print(json.dumps({"summary": summary, "medians": middle}, indent=1))
    write_result(
        "loading",
        {"rounds": rounds, "weights_bytes": weights, "summary": summary, "medians": middle},
    )


if __name__ == "__main__":
    main()
