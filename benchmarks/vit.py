"""What heads on one plain vision transformer cost: time, and what training keeps in memory.

    python -m benchmarks.vit
    python -m benchmarks.vit --smallest        only tries that it runs

Each model takes its turn in each round. On a CPU the time is processor time of one thread; on a
GPU, where one is found, that of synchronised clocks in bfloat16. ``frozen`` is a training step with
the encoder frozen, ``kept`` one whose features were computed before (a recipe's ``keep_features``).
Kept activations are all that autograd keeps from forward to backward but weights.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import segzoo
from segzoo.architectures.base import SegmentationModel, create_model
from segzoo.training.objective import called, make_loss, mask_chances

from .common import saved_activations, summary, write_result
from .training import clock

ENCODER, CLASSES = "vit_small_patch16_224", 19
ARCHITECTURES = ("unet", "dpt", "linear_head", "eomt")
#: What is timed of each; ``kept`` and ``frozen`` where the encoder can stand still by itself.
WAYS = ("predict", "train", "frozen", "kept")


@dataclass(frozen=True)
class Candidate:
    """A model, and what is done with it."""

    architecture: str
    way: str

    def __str__(self) -> str:
        return f"{self.architecture}, {self.way}"

    def make(self, device: str) -> SegmentationModel:
        """The model, on its device."""
        torch.manual_seed(0)
        model = create_model(self.architecture, ENCODER, CLASSES).to(device)
        if self.way in ("frozen", "kept"):
            model.freeze_encoder()
        return model.train(self.way != "predict")

    def run(self, model: SegmentationModel, image: Tensor) -> Callable[[], Any]:
        """One prediction, or one forward and backward."""
        kind, on_gpu = image.device.type, image.device.type == "cuda"

        def predict() -> None:
            with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=on_gpu):
                model(image)

        if self.way == "predict":
            return predict
        outside, loss = called(model), make_loss(model, segzoo.Recipe(), None, None)
        more: dict[str, Any] = {}
        if isinstance(model, segzoo.EoMT):
            more["chances"] = mask_chances(model.query_blocks, 0.5)
        if self.way == "kept":
            with torch.no_grad():
                more["maps"] = model.encoder(model.encoder.size_rule.fit(image))
        side = image.shape[-1] // 8
        labels = torch.arange(64, device=image.device).view(8, 8) % CLASSES
        target = labels.repeat_interleave(side, 0).repeat_interleave(side, 1)
        target = target.expand(len(image), -1, -1)

        def train() -> None:
            model.zero_grad(set_to_none=True)
            with torch.autocast(kind, torch.bfloat16, enabled=on_gpu):
                outputs = outside(image, **more)
            found = outputs if self.architecture == "eomt" else outputs.logits
            loss(found, target).backward()

        return train


def candidates() -> list[Candidate]:
    """All that can be: the queries of an EoMT pass its encoder, which so cannot stand still."""
    return [
        Candidate(architecture, way)
        for architecture in ARCHITECTURES
        for way in WAYS
        if architecture != "eomt" or way in ("predict", "train")
    ]


def measure(batch: int, size: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """A row for each candidate."""
    image = torch.randn(batch, 3, size, size, device=device)
    models = {item: item.make(device) for item in candidates()}
    runs = {item: item.run(model, image) for item, model in models.items()}
    taken: dict[Candidate, list[float]] = {item: [] for item in runs}
    for i in range(rounds + 1):
        for item in list(runs) if i % 2 else list(reversed(runs)):
            start = clock(device)
            runs[item]()
            if i:
                taken[item].append(clock(device) - start)
    base = {item.way: values for item, values in taken.items() if item.architecture == "unet"}
    rows = []
    for item, model in models.items():
        times = taken[item]
        pairs = zip(base[item.way], times, strict=True)
        rows.append(
            {
                "architecture": item.architecture,
                "way": item.way,
                "parameters": sum(p.numel() for p in model.parameters()),
                "ms": summary(times),
                "images_per_second": round(batch / statistics.median(times) * 1e3, 3),
                "speed_up_over_unet": round(statistics.median(a / b for a, b in pairs), 3),
                "kept_mib": None if item.way == "predict" else _kept(item, model, image),
            }
        )
        print(rows[-1], flush=True)
    return rows


def _kept(item: Candidate, model: SegmentationModel, image: Tensor) -> float:
    outside = called(model)
    if item.way == "kept":
        with torch.no_grad():
            maps = model.encoder(model.encoder.size_rule.fit(image))

        class FromMaps(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = outside

            def forward(self, given: Tensor) -> Any:
                return self.inner(given, maps=maps)

        outside_of_maps: torch.nn.Module = FromMaps()
        return round(saved_activations(outside_of_maps, image) / 2**20, 1)
    return round(saved_activations(outside, image) / 2**20, 1)


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true", help="Only try that it runs.")
    smallest = parser.parse_args().smallest
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch, size, rounds = (2, 64, 1) if smallest else (2, 512, 5)
    rows = measure(batch, size, rounds, device)
    if not smallest:
        record = {"encoder": ENCODER, "classes": CLASSES, "batch": batch, "size": size}
        write_result("vit" if device == "cpu" else "vit_gpu", record, rows=rows)


if __name__ == "__main__":
    main()
