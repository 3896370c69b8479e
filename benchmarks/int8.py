"""Files in 8-bit integers on CamVid: how much IoU they cost, and how fast they are.

A Unet on resnet18 is trained on the training pictures, exported as ONNX and for OpenVINO in float32
and in int8 (calibrated on training pictures), and all four files are scored on the validation
pictures, beside the model itself. Times are taken in turn, one picture at a time, with as many
threads as the runtimes choose.

    SEGZOO_CAMVID=... python -m benchmarks.int8 [--epochs N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import segzoo
from segzoo.inference.export.exported import open_exported
from segzoo.timing import in_turn

from . import camvid
from .common import write_result

ENCODER, SIZE = "resnet18", (180, 240)
#: Training pictures that a file is calibrated and judged with.
PICTURES = 64


def train(folder: Path, epochs: int) -> segzoo.Unet:
    """A model that has learnt: agreement of an untrained one would say nothing."""
    torch.manual_seed(0)
    data = segzoo.open_data(camvid.folder(), classes=camvid.CLASSES - 1, ignore_index=camvid.VOID)
    model = segzoo.Unet(ENCODER, classes=camvid.CLASSES - 1)
    recipe = segzoo.Recipe(epochs=epochs, size=SIZE, learning_rate=3e-3, seed=0)
    segzoo.train(model, data, out=folder, recipe=recipe, device="cpu")
    trained = segzoo.from_pretrained(folder)
    assert isinstance(trained, segzoo.Unet)
    return trained.eval()


def score(predict: Callable[[Tensor], Tensor], images: Tensor, masks: Tensor) -> Tensor:
    """The confusion matrix of all pictures, one at a time."""
    return sum(
        (camvid.confusion(mask, predict(image)) for image, mask in zip(images, masks, strict=True)),
        torch.zeros(camvid.CLASSES, camvid.CLASSES, dtype=torch.long),
    )


def measure(epochs: int) -> dict[str, Any]:
    """Train, export, score and time."""
    root = camvid.folder()
    pictures, _ = camvid.read(root, "train", SIZE)
    images, masks = camvid.read(root, "val", SIZE)
    step = len(pictures) // PICTURES
    calibration = list(pictures[::step][:PICTURES])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = train(folder / "model", epochs)
        normalised = model.normalization(images[:1])
        rows = [
            {"what": "torch, fp32", "miou": camvid.mean_iou(score(model.predict, images, masks))}
        ]
        calls: dict[str, Callable[[], object]] = {}
        for suffix, runtime in ((".onnx", "ONNX Runtime"), (".xml", "OpenVINO")):
            for kind, given in (("fp32", None), ("int8", calibration)):
                what = f"{runtime}, {kind}"
                path = folder / f"{kind}{suffix}"
                segzoo.export(model, path, dynamic=False, size=SIZE, int8=given)
                file = open_exported(path)
                calls[what] = lambda file=file: file(normalised)
                weights = path.with_suffix(".bin") if suffix == ".xml" else path
                rows.append(
                    {
                        "what": what,
                        "miou": round(camvid.mean_iou(score(file.predict, images, masks)), 5),
                        "agreement": file.int8 and file.int8["agreement"],
                        "megabytes": round(weights.stat().st_size / 1e6, 1),
                    }
                )
                print(rows[-1], flush=True)
        times = in_turn(calls, rounds=15, turn=0.3)
    for row in rows[1:]:
        row["ms"] = times[row["what"]].summary()
    return {
        "encoder": ENCODER,
        "size": SIZE,
        "epochs": epochs,
        "pictures": PICTURES,
        "speed_up": {
            runtime: round(times[f"{runtime}, int8"].speed_up_over(times[f"{runtime}, fp32"]), 3)
            for runtime in ("ONNX Runtime", "OpenVINO")
        },
        "rows": rows,
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    record = measure(parser.parse_args().epochs)
    rows = record.pop("rows")
    write_result("int8", record, rows=rows)


if __name__ == "__main__":
    main()
