"""EoMT's images per second beside transformers' own, in turn, on a CPU.

    python -m benchmarks.eomt_speed           all of it, resumes where it stopped
    python -m benchmarks.eomt_speed 19        the settings with so many classes: printed, no record

From a normalised image to the class of each pixel: transformers' model and its processor's
``post_process_semantic_segmentation``; ours as it is, optimised, optimised by torch's compiler, and
optimised in the precision that ``dtype="auto"`` finds the fastest that gives the same classes. That
is no comparison of equals where it is bfloat16, so transformers' model and ours run in bfloat16,
too. The same weights, random ones; the share of pixels of the same class is recorded, and how many
classes there are. Each setting has its rounds in turn in one process.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import segzoo
from benchmarks.common import write_result
from benchmarks.parity.eomt import theirs as built
from segzoo.convert import from_transformers
from segzoo.timing import in_turn

ROUNDS, WARMUP = 12, 2
#: Kind, backbone, side, queries, classes.
SETTINGS = (
    ("DINOv2", "small", 512, 100, 19),
    ("DINOv2", "small", 512, 150, 150),
    ("DINOv2", "base", 512, 100, 19),
    ("DINOv3", "small", 512, 100, 19),
)


def measure(kind: str, backbone: str, side: int, queries: int, classes: int) -> dict[str, Any]:
    """One row: milliseconds of each, and what share of the pixels is of transformers' class."""
    model = built(kind, backbone, side, queries=queries, classes=classes)
    model.attn_mask_probs.zero_()
    nn.init.normal_(model.class_predictor.weight)  # so that queries are of many classes
    size = {"shortest_edge": side, "longest_edge": side}
    processor = transformers.EomtImageProcessor(size=size)
    ours = from_transformers(model.state_dict(), model.config.to_dict())
    low = copy.deepcopy(model).to(torch.bfloat16)
    image = torch.randn(1, 3, side, side)
    half = image.to(torch.bfloat16)
    fast = segzoo.optimize(ours, example=image)
    compiled = segzoo.optimize(ours, example=image, backend="compile")
    # With random weights the error of an image hangs on that of a few queries: whether
    # it is larger than the plain model's is chance. How many pixels are the same is recorded.
    fast_low = segzoo.optimize(ours, example=image, dtype=torch.bfloat16, tolerance=0.1)
    auto = segzoo.optimize(ours, example=image, dtype="auto", tolerance=0.1)

    def classes_of(run: Any, given: Tensor) -> Tensor:
        outputs = run(pixel_values=given)
        found: list[Tensor] = processor.post_process_semantic_segmentation(
            outputs, target_sizes=[(side, side)]
        )
        return found[0]

    calls: dict[str, Callable[[], Tensor]] = {
        "transformers": lambda: classes_of(model, image),
        "segzoo": lambda: ours(image).max(dim=1).indices[0],
        "segzoo optimized": lambda: fast(image).max(dim=1).indices[0],
        "segzoo compiled": lambda: compiled(image).max(dim=1).indices[0],
        "segzoo optimized, auto": lambda: auto(image).max(dim=1).indices[0],
        "transformers bfloat16": lambda: classes_of(low, half),
        "segzoo optimized bfloat16": lambda: fast_low(image).max(dim=1).indices[0],
    }
    with torch.inference_mode():
        wanted = calls["transformers"]()
        same = {name: float((call() == wanted).float().mean()) for name, call in calls.items()}
        times = in_turn(calls, rounds=ROUNDS, warmup=WARMUP)
    return {
        "kind": kind,
        "backbone": backbone,
        "side": side,
        "queries": queries,
        "classes": classes,
        "ways": [item.detail for item in fast.passes if item.name.startswith("backend")],
        "auto": str(auto.dtype).removeprefix("torch."),
        "classes_found": len(wanted.unique()),
        "same_pixels": {name: round(share, 6) for name, share in same.items()},
        "milliseconds": {name: timing.summary() for name, timing in times.items()},
        "speed_up": {
            name: round(timing.speed_up_over(times["transformers"]), 3)
            for name, timing in times.items()
        },
    }


def main() -> None:
    """Parse, measure what is missing, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("classes", nargs="?", type=int, help="only these, without a record")
    only = parser.parse_args().classes
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    log = Path(f".eomt-speed-{transformers.__version__}.jsonl")
    rows = [] if only or not log.exists() else list(map(json.loads, log.read_text().splitlines()))
    keys = ("kind", "backbone", "side", "queries", "classes")
    done = {tuple(row[key] for key in keys) for row in rows}
    for setting in SETTINGS:
        if setting in done or (only and only != setting[-1]):
            continue
        rows.append(measure(*setting))
        print(json.dumps(rows[-1]), flush=True)
        if not only:
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    if not only:
        versions = {"transformers": transformers.__version__}
        write_result("eomt_speed", {"versions": versions}, rows=rows, of_each_kind=True)


if __name__ == "__main__":
    main()
