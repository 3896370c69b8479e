"""Tiles beside one piece: error, cost and memory.

    SEGZOO_CAMVID=folder python -m benchmarks.tiling [margins|methods|memory]

``margins``: a Unet on each of several encoders, random weights with the batch statistics of CamVid,
on a collage of its photographs: how far it looks, and what exact tiles differ from one piece by;
three of them in float64, on a part of the collage. Random weights leave pixels whose two best
classes are nearer than a rounding; where one flips, the same encoder is tried again after some
training. ``methods``: one model, trained briefly, by every way of tiling and by MONAI's sliding
window, with tiles of the same sizes: error, time, and by how much the call raises the peak of
memory, the result (logits of all pixels) included. ``memory``: GeoTIFFs of two heights, known in a
corner only, each in a process of its own. Times are processor seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segzoo
from segzoo.prediction.pixel_model import pixel_model
from segzoo.prediction.tiling.margin import probe_margin

from . import camvid
from .common import RESULTS, peak_rise, write_result
from .records import exists, record

HEIGHT, WIDTH = 1373, 1600
ENCODERS = (
    *("vgg11", "resnet18", "resnetv2_50", "mobilenetv2_100", "repvgg_a0"),
    *("tf_efficientnet_lite0", "resnet34", "mobilenetv4_conv_small", "regnetx_004"),
    "convnext_atto",
)
#: Sides of a tile: of the smaller one, much must be left beside the margins.
TILES, MOST_MARGIN = (1024, 1536), 640
#: Of these also float64, on a part of the collage.
DOUBLE, PART = ("vgg11", "resnet18", "mobilenetv2_100"), (401, 901)
#: Which look at everything, so that exact tiles are refused.
REFUSED = ("efficientnet_b0", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")
STEPS, SIDES = 90, ((20_000, 20_000), (40_000, 20_000))
#: Of tiles by which methods are compared.
SIDES_OF_TILES = (512, 1024)


def collage() -> Tensor:
    """Photographs of CamVid side by side, cut to an odd size: ``(3, H, W)``, uint8."""
    images, _ = camvid.read(camvid.folder(), "val", (360, 480))
    rows = [torch.cat(list(images[i : i + 4]), dim=2) for i in range(0, 16, 4)]
    whole = torch.cat(rows, dim=1)[:, :HEIGHT, :WIDTH]
    return (whole * 255).round().to(torch.uint8)


def calibrated(encoder: str, images: Tensor) -> segzoo.Unet:
    """A Unet with random weights, whose batch norms know CamVid."""
    torch.manual_seed(0)
    model = segzoo.Unet(encoder, classes=camvid.CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train()
        model(model.normalization(images))
    return model.eval()


def trained(encoder: str, images: Tensor, masks: Tensor) -> segzoo.Unet:
    """A Unet after a few steps on CamVid."""
    torch.manual_seed(0)
    model = segzoo.Unet(encoder, classes=camvid.CLASSES).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (4,), generator=generator)
        logits = model(model.normalization(images[chosen]))
        loss = F.cross_entropy(logits, masks[chosen], ignore_index=camvid.VOID)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@contextmanager
def seconds(row: dict[str, Any]) -> Iterator[None]:
    """Processor seconds of what is inside."""
    began = time.process_time()
    yield
    row["cpu_seconds"] = round(time.process_time() - began, 1)


def compared(found: Tensor, whole: Tensor) -> dict[str, Any]:
    """Largest difference of logits, and the share of pixels with another class."""
    return {
        "difference": float((found - whole).abs().max()),
        "largest_logit": float(whole.abs().max()),
        "flipped": float((found.argmax(0) != whole.argmax(0)).double().mean()),
    }


@torch.no_grad()
def in_one_piece(model: segzoo.Unet, picture: Tensor, padded: tuple[int, int] | None) -> Tensor:
    """The logits of one forward pass, of the picture or of it padded with zeros."""
    weight = next(model.parameters())
    image = model.normalization(picture[None]).to(weight.dtype)
    height, width = picture.shape[1:]
    if padded is not None:
        image = F.pad(image, (0, padded[1] - width, 0, padded[0] - height))
    return model(image)[0, :, :height, :width]


def tile_for(model: segzoo.Unet) -> int:
    """The smaller tile, if the margins leave a good part of it."""
    with pixel_model(model) as ready:
        margin = probe_margin(ready, model.stride)
    return TILES[margin.left + margin.right > MOST_MARGIN]


def exact(model: segzoo.Unet, picture: Tensor, tile: int) -> dict[str, Any]:
    """Exact tiles beside one piece."""
    row: dict[str, Any] = {"tile": tile}
    with seconds(row):
        result = segzoo.predict_tiled(model, picture, tiling="exact", tile=tile, write="logits")
    tiling = result.tiling
    assert result.values is not None
    whole: dict[str, Any] = {}
    with seconds(whole):
        logits = in_one_piece(model, picture, tiling.padded)
    row |= compared(torch.from_numpy(result.values).to(logits), logits)
    row |= {
        "margin": vars(tiling.margin) if tiling.margin else None,
        "padded": tiling.padded,
        "overwork": round(tiling.overwork, 2),
        "whole_cpu_seconds": whole["cpu_seconds"],
        "reason": tiling.reason,
    }
    return row


def margins() -> None:
    """How far encoders look, and how exact their tiles are; goes on with what is missing."""
    picture = collage()
    images, _ = camvid.read(camvid.folder(), "train", (192, 256))
    rows: list[dict[str, Any]] = []
    if exists("tiling_margins"):
        rows = record("tiling_margins")["rows"]
    refused = {}
    for encoder in REFUSED:
        try:
            segzoo.predict_tiled(
                segzoo.Unet(encoder, classes=2).eval(), picture, tiling="exact", tile=1280
            )
        except segzoo.errors.ArgumentError as error:
            refused[encoder] = str(error)
    for encoder in ENCODERS:
        if any(row["encoder"] == encoder for row in rows):
            continue
        model = calibrated(encoder, images[:8])
        row = {"encoder": encoder, "precision": "float32", "size": [HEIGHT, WIDTH]}
        rows.append(row | exact(model, picture, tile_for(model)))
        print(rows[-1], flush=True)
        if encoder in DOUBLE:
            part = picture[:, : PART[0], : PART[1]]
            row = {"encoder": encoder, "precision": "float64", "size": list(PART)}
            rows.append(row | exact(model.double(), part, 640))
            print(rows[-1], flush=True)
        # After each: a run that is stopped has measured those.
        write_result("tiling_margins", {"refused": refused}, rows=rows)
    images, masks = camvid.read(camvid.folder(), "train", (192, 256))
    for encoder in flipping(rows):
        model = trained(encoder, images, masks)
        row = {"encoder": encoder, "precision": "float32", "size": [HEIGHT, WIDTH], "steps": STEPS}
        rows.append(row | exact(model, picture, tile_for(model)))
        print(rows[-1], flush=True)
        write_result("tiling_margins", {"refused": refused}, rows=rows)


def flipping(rows: list[dict[str, Any]]) -> list[str]:
    """Encoders of which a pixel flips with random weights, and which were not trained yet."""
    done = {row["encoder"] for row in rows if "steps" in row}
    return [row["encoder"] for row in rows if row["flipped"] and row["encoder"] not in done]


def by_monai(
    model: segzoo.Unet, picture: Tensor, *, mode: str, overlap: float, window: int
) -> Tensor:
    """MONAI's sliding window over the same picture."""
    from monai.inferers import sliding_window_inference

    with torch.no_grad():
        image = model.normalization(picture[None])
        found: Tensor = sliding_window_inference(
            image, (window, window), 1, model, overlap=overlap, mode=mode
        )
    return found[0]


def measured_call(row: dict[str, Any], call: Callable[[], Any]) -> Any:
    """What a call gives; its processor time and its peak of memory go into the row."""
    found: list[Any] = []
    with seconds(row):
        rise = peak_rise(lambda: found.append(call()))
    row["peak_mib"] = round(rise)
    return found[0]


def ways() -> dict[str, dict[str, Any]]:
    """Name -> arguments: of ``predict_tiled``, or of :func:`by_monai`, which have a window."""
    import monai

    found: dict[str, dict[str, Any]] = {
        "exact, tile 1024": {"tiling": "exact", "tile": 1024},
        "measured, tolerance 1e-3, tile 1024": {"tiling": "measured", "tile": 1024},
    }
    for side in SIDES_OF_TILES:
        for overlap in (0.25, 0.5):
            name = f"blend, overlap {overlap:g}, tile {side}"
            found[name] = {"tiling": "blend", "tile": side, "overlap": overlap}
    for side in SIDES_OF_TILES:
        for mode, overlap in (("constant", 0.0), ("gaussian", 0.25), ("gaussian", 0.5)):
            name = f"MONAI {monai.__version__}, {mode}, overlap {overlap:g}, tile {side}"
            found[name] = {"mode": mode, "overlap": overlap, "window": side}
    return found


def methods() -> None:
    """One model by every way of tiling; goes on with what is missing."""
    picture = collage()
    images, masks = camvid.read(camvid.folder(), "train", (192, 256))
    model = trained("resnet18", images, masks)
    with torch.no_grad():  # what torch keeps of a first call is none of a method's
        model(model.normalization(picture[None, :, :512, :512]))
    first: dict[str, Any] = {"method": "one piece"}
    whole = measured_call(first, lambda: in_one_piece(model, picture, None))
    rows = [first]
    if exists("tiling"):
        known = [row for row in record("tiling")["rows"] if "peak_mib" in row]
        rows += [row for row in known if row["method"] != first["method"]]
    for name, options in ways().items():
        if any(row["method"] == name for row in rows):
            continue
        row: dict[str, Any] = {"method": name}
        if "window" in options:
            found = measured_call(row, lambda o=options: by_monai(model, picture, **o))
        else:
            result = measured_call(
                row,
                lambda o=options: segzoo.predict_tiled(model, picture, write="logits", **o),
            )
            margin = result.tiling.margin
            row |= {"margin": vars(margin) if margin else None, "reason": result.tiling.reason}
            found = torch.from_numpy(result.values)
        rows.append(row | compared(found, whole))
        print(rows[-1], flush=True)
        write_result("tiling", {"encoder": "resnet18", "size": [HEIGHT, WIDTH]}, rows=rows)


def one_scene(height: int, width: int) -> None:
    """Segment a GeoTIFF that is known in a corner only; prints what it took."""
    import rasterio

    torch.manual_seed(0)
    model = segzoo.Unet("resnet18", classes=camvid.CLASSES).eval()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "scene.tif", Path(folder) / "mask.tif"
        with rasterio.open(
            source,
            "w",
            driver="GTiff",
            count=3,
            height=height,
            width=width,
            dtype="uint16",
            nodata=0,
            crs="EPSG:32633",
            transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
            tiled=True,
            compress="deflate",
            SPARSE_OK=True,
        ) as file:
            values = np.random.default_rng(0).integers(1, 65536, (3, 2200, 2200), dtype=np.uint16)
            file.write(values, window=((3000, 5200), (4000, 6200)))
        row: dict[str, Any] = {"height": height, "width": width}
        with seconds(row):
            result = segzoo.predict_tiled(model, source, target, tiling="exact", tile=1568)
        row |= {"tiles": result.tiles, "forwards": result.tiles - result.skipped}
        row["result_bytes"] = target.stat().st_size
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps(row | {"peak_mib": round(peak / 1024)}))


def memory() -> None:
    """Peak memory at two heights, each in a process of its own."""
    rows = []
    for height, width in SIDES:
        command = [sys.executable, "-m", "benchmarks.tiling", "scene", str(height), str(width)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    write_result("tiling_memory", {"encoder": "resnet18", "tile": 1568}, rows=rows)


def main() -> None:
    """Run what is asked for, or all."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("margins", "methods", "memory", "scene"))
    parser.add_argument("size", nargs="*", type=int)
    arguments = parser.parse_args()
    if arguments.what == "scene":
        one_scene(*arguments.size)
        return
    parts: dict[str, Callable[[], None]] = {
        "margins": margins,
        "methods": methods,
        "memory": memory,
    }
    RESULTS.mkdir(exist_ok=True)
    for name, part in parts.items():
        if arguments.what in (None, name):
            part()


if __name__ == "__main__":
    main()
