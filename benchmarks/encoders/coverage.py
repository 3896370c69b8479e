"""Which of timm's architectures work as an encoder: ours and smp's ``tu-`` side by side.

    python -m benchmarks.encoders.coverage                 all of them, goes on where it stopped
    python -m benchmarks.encoders.coverage --sample 150    evenly spread over the list
    python -m benchmarks.encoders.coverage --real          a small one of each module, real tensors

Each model is tried in a process of its own with a time and a memory limit: built without any
option, run at three sizes in eval mode and, ours, in training mode with a backward pass. Without
``--real`` this happens on the meta device, where of all values only positions are computed.
A model that we cannot run is also tried in timm alone, so that its own error stands beside ours.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn
from tqdm import tqdm

import segzoo
from benchmarks.common import write_result
from benchmarks.encoders.families import smallest
from benchmarks.isolated import in_process
from segzoo.encoders.positions import PositionsHaveValues
from segzoo.encoders.timm_meta import meta_backbone

SIZES = ((256, 256), (250, 317), (97, 64))


def try_ours(name: str, device: str) -> str:
    """``ok``, or what went wrong first."""
    with torch.device(device):
        model = segzoo.Unet(name, classes=3)
    return try_model(model, device, backward=True)


def try_smp(name: str, device: str) -> str:
    """The same for smp, whose encoder of timm's name is called ``tu-`` and the name."""
    with torch.device(device):
        model = smp.Unet(f"tu-{name}", encoder_weights=None, classes=3)
    return try_model(model, device, backward=False)


def try_timm(name: str, device: str) -> str:
    """timm's own backbone, at its own size."""
    with torch.device(device):
        backbone = timm.create_model(name, features_only=True).eval()
    size = backbone.pretrained_cfg["input_size"]
    with values_on(device):
        backbone(torch.rand(1, *size, device=device))
    return "ok"


def try_model(model: nn.Module, device: str, *, backward: bool) -> str:
    """Run at every size; the logits must have the image's own."""
    for size in SIZES:
        image = torch.rand(2, 3, *size, device=device)
        with values_on(device):
            with torch.no_grad():
                shape = tuple(model.eval()(image).shape)
            if shape != (2, 3, *size):
                return f"at {size}: logits of shape {shape}"
            if backward:
                model.train()(image).mean().backward()
                model.zero_grad()
    return "ok"


def values_on(device: str) -> contextlib.AbstractContextManager[object]:
    """On the meta device positions get values, so that tables which end there are noticed."""
    return PositionsHaveValues() if device == "meta" else contextlib.nullcontext()


def sweep(names: Iterable[str], device: str, log: Path) -> dict[str, dict[str, str]]:
    """Try every name that the log does not have yet; the log grows by a line for each."""
    rows: dict[str, dict[str, str]] = {}
    if log.exists():
        rows = {row.pop("name"): row for row in map(json.loads, log.read_text().splitlines())}
    for name in tqdm(list(names)):
        if name in rows:
            continue
        start = time.perf_counter()
        row = {
            "segzoo": in_process(try_ours, name, device),
            "smp": in_process(try_smp, name, device),
        }
        if row["segzoo"] != "ok":
            row["timm"] = in_process(try_timm, name, device)
        rows[name] = row
        seconds = round(time.perf_counter() - start, 1)
        with log.open("a") as file:
            file.write(json.dumps({"name": name, **row, "seconds": seconds}) + "\n")
    return {name: rows[name] for name in names}


def report(rows: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Counts, and every row that is not ``ok`` for both."""
    works = {who: sum(row[who] == "ok" for row in rows.values()) for who in ("segzoo", "smp")}
    reasons = collections.Counter(
        row["smp"].partition(":")[0] for row in rows.values() if row["smp"] != "ok"
    )
    return {
        "sizes": [f"{h}x{w}" for h, w in SIZES],
        "architectures": len(rows),
        "works_at_all_sizes": works,
        "smp_failures_by_error": dict(reasons.most_common()),
        "segzoo_failures": {
            name: {who: row.get(who, "") for who in ("segzoo", "timm")}
            for name, row in rows.items()
            if row["segzoo"] != "ok"
        },
        "smp_failures": sorted(name for name, row in rows.items() if row["smp"] != "ok"),
    }


def main() -> None:
    """Parse, sweep, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, help="that many names, evenly spread")
    parser.add_argument("--pyramids", action="store_true", help="only three strides 2^n and more")
    parser.add_argument("--real", action="store_true", help="real tensors, one of each module")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = timm.list_models()
    if arguments.real:
        names = [smallest(module) for module in timm.list_modules()]
    if arguments.pyramids:
        names = [name for name in names if has_pyramid(name)]
    if arguments.sample:
        names = [names[i * len(names) // arguments.sample] for i in range(arguments.sample)]
    kind = "real" if arguments.real else "meta"
    log = Path(f".coverage-{kind}-{timm.__version__}.jsonl")
    rows = sweep(names, "cpu" if arguments.real else "meta", log)
    kinds = ("pyramids", "real", "sample")
    suffix = next((f"_{kind}" for kind in kinds if getattr(arguments, kind)), "")
    result = {"of": len(timm.list_models()), **report(rows)}
    print(json.dumps(result["works_at_all_sizes"]), "of", result["architectures"])
    write_result(f"coverage{suffix}", result)


def has_pyramid(name: str) -> bool:
    """Whether timm says of it three distinct strides or more, all of them powers of two."""
    strides = set(meta_backbone(name, {}).feature_info.reduction())
    return len(strides) >= 3 and all(stride & (stride - 1) == 0 for stride in strides)


if __name__ == "__main__":
    main()
