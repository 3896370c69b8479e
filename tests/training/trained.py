"""Folders of models with what a training leaves in them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import segzoo
from segzoo.training.evaluate import measure
from segzoo.training.results import write_results
from tests.model_folders import small

NAMES = ("sky", "<b>road</b> & $x$", "car | bus")
HISTORY = [
    {
        "epoch": epoch, "step": 10 * epoch, "loss": 2.0 / epoch, "lr": 1e-3, "seconds": 1.5 * epoch,
        "val": {"images": 3, "miou": 0.1 * epoch, "pixel_accuracy": 0.5, "mean_dice": 0.2, "iou": [0.1, None, 0.3]},
    }
    for epoch in range(1, 4)
]  # fmt: skip


class Data:
    """Three pictures with names."""

    names = ("a/1", "b", "c")

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8, generator=generator)
        mask = torch.randint(0, 2, (4, 6), generator=generator)
        mask = mask.repeat_interleave(10, 0).repeat_interleave(10, 1)
        mask[0] = 255
        return image, mask


def write_records(folder: Path, scores: segzoo.Scores) -> None:
    """What ``segzoo train`` writes beside figures and card."""
    inside = folder / "training"
    inside.mkdir(parents=True, exist_ok=True)
    (inside / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HISTORY))
    versions = {"segzoo": "0.1.7", "torch": "2.7.1", "timm": "1.0.9", "Python": "3.9.2"}
    found = {"epoch": 3, "val": scores.to_json(), "versions": versions}
    (inside / "metrics.json").write_text(json.dumps(found))
    recipe = {"epochs": 3, "batch_size": 8, "seed": 0, "size": [32, 48], "focal": 0.0, "ema": None}
    (inside / "recipe.json").write_text(json.dumps(recipe))
    data = {
        "source": {"images": "/home/ann/streets/images", "masks": None},
        "counts": {"train": 9, "val": 3},
        "fingerprint": "3f2a<script>",
    }
    (inside / "data.json").write_text(json.dumps(data))
    (inside / "state.pt").write_bytes(b"of this machine")


def trained(folder: Path) -> segzoo.Unet:
    """A model in a folder, as a training of three epochs leaves it."""
    torch.manual_seed(0)
    model = small(3, class_names=NAMES)
    model.save_pretrained(folder)
    meter = segzoo.ScoreMeter(3, ignore_index=255)
    measure(model, Data(), meter, size=(32, 48))
    scores = meter.compute(NAMES)
    write_records(folder, scores)
    write_results(
        folder, model, Data(), scores=scores, image_miou=meter.image_miou(), history=HISTORY,
        size=(32, 48),
    )  # fmt: skip
    return model
