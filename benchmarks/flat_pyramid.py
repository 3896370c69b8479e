"""Which pyramid for a flat backbone: DPT's reassemble, ViTDet's simple feature pyramid, none.

    SEGZOO_CAMVID=folder python -m benchmarks.flat_pyramid
    python -m benchmarks.flat_pyramid --cost       only what the variants cost, on this machine

The same small vision transformer and the same U-Net decoder, from random weights, on CamVid
(:mod:`benchmarks.camvid` says what the folder holds): equal steps, batches and seeds. Every run is
written down when it ends, and a second call goes on with what is missing.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import segzoo
from segzoo.encoders.pyramid import Reassemble
from segzoo.nn.layers import ChannelNorm2d
from segzoo.timing import in_turn

from . import camvid
from .camvid import CLASSES, VOID
from .common import spread, write_result, written

NAME = "flat_pyramid"
RECIPE: dict[str, Any] = {
    "encoder": "vit_tiny_patch16_224",
    "encoder_options": {"embed_dim": 96, "num_heads": 3},
    "decoder_channels": [64, 48, 32, 24, 16],
    "size": [96, 128],
    "epochs": 8,
    "batch": 8,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "seeds": 3,
}


class LastBlockOnly(nn.Module):
    """A pyramid of several blocks, given the last one in every place."""

    def __init__(self, pyramid: Reassemble) -> None:
        super().__init__()
        self.inner = pyramid
        self.features = pyramid.features

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The last map -> one map for each of ``features``."""
        out: list[Tensor] = self.inner([maps[-1]] * len(maps))
        return out


class SimpleFeaturePyramid(nn.Module):
    """A pyramid from the last block alone.

    Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", 2022, section 3
    and figure 2c: transposed convolutions for the levels finer than the patch, max pooling for
    the coarser one, then a 1x1 and a 3x3 convolution, each with layer normalisation. The widths
    are those of the pyramid that it replaces, so that the decoder is the same.
    """

    def __init__(self, channels: int, stride: int, features: Sequence[segzoo.FeatureSpec]) -> None:
        super().__init__()
        self.features = tuple(features)
        self.levels = nn.ModuleList(
            nn.Sequential(
                *_resample(channels, stride, feature.stride),
                nn.LazyConv2d(feature.channels, 1, bias=False),
                ChannelNorm2d(feature.channels),
                nn.Conv2d(feature.channels, feature.channels, 3, padding=1, bias=False),
                ChannelNorm2d(feature.channels),
            )
            for feature in features
        )
        with torch.no_grad():
            self([torch.zeros(1, channels, 2, 2)])  # tells the lazy convolutions their widths

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The last map -> one map for each of ``features``."""
        return [level(maps[-1]) for level in self.levels]


def _resample(channels: int, stride: int, wanted: int) -> list[nn.Module]:
    """From one stride to another, the channels halved at each doubling."""
    if wanted > stride:
        return [nn.MaxPool2d(wanted // stride)]
    layers: list[nn.Module] = []
    while stride > wanted:
        if layers:
            layers += [ChannelNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels, stride = channels // 2, stride // 2
    return layers


def unet(depth: int | None = None) -> segzoo.Unet:
    """The recipe's model as the library builds it."""
    channels = RECIPE["decoder_channels"]
    return segzoo.Unet(
        RECIPE["encoder"],
        CLASSES,
        depth=depth,
        encoder_options=RECIPE["encoder_options"],
        # Without a pyramid the walk begins at stride 16: one block less.
        decoder_channels=channels[1:] if depth == 1 else channels,
    )


def last_block() -> segzoo.Unet:
    """The same weights and the same operations, but from the last block alone."""
    model = unet()
    model.pyramid = LastBlockOnly(model.pyramid)
    return model


def simple() -> segzoo.Unet:
    """The same decoder on the simple feature pyramid."""
    model = unet()
    last = model.encoder.features[-1]
    model.pyramid = SimpleFeaturePyramid(last.channels, last.stride, model.features)
    return model


VARIANTS: dict[str, Callable[[], segzoo.Unet]] = {
    "reassemble, four blocks": unet,
    "simple feature pyramid": simple,
    "no pyramid": lambda: unet(depth=1),
    "reassemble, last block": last_block,
}


def train(variant: str, seed: int, data: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """One run; the mean IoU on the validation set at its end."""
    start = time.process_time()
    torch.manual_seed(seed)
    model = VARIANTS[variant]()
    images, masks = data["train"]
    images = model.normalization(images)
    steps = len(images) // RECIPE["batch"]
    optimizer = torch.optim.AdamW(
        model.parameters(), RECIPE["lr"], weight_decay=RECIPE["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RECIPE["lr"], total_steps=steps * RECIPE["epochs"]
    )
    draws = torch.Generator().manual_seed(seed)  # the same batches for every variant
    for _ in range(RECIPE["epochs"]):
        model.train()
        order = torch.randperm(len(images), generator=draws)[: steps * RECIPE["batch"]]
        for batch in order.chunk(steps):
            mirrored = torch.rand(len(batch), generator=draws) < 0.5
            image = _mirror(images[batch], mirrored)
            mask = _mirror(masks[batch], mirrored)
            optimizer.zero_grad()
            F.cross_entropy(model(image), mask, ignore_index=VOID).backward()
            optimizer.step()
            schedule.step()
    miou = round(validate(model, *data["val"]), 4)
    seconds = round(time.process_time() - start)
    return {"variant": variant, "seed": seed, "miou": miou, "cpu_seconds": seconds}


def _mirror(batch: Tensor, chosen: Tensor) -> Tensor:
    """Some of a batch, left and right exchanged."""
    return torch.where(chosen.view(-1, *[1] * (batch.ndim - 1)), batch.flip(-1), batch)


@torch.inference_mode()
def validate(model: segzoo.Unet, images: Tensor, masks: Tensor) -> float:
    """The mean IoU over all pictures."""
    model.eval()
    table = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    for image, mask in zip(images.split(16), masks.split(16), strict=True):
        table += camvid.confusion(mask, model(model.normalization(image)).argmax(dim=1))
    return camvid.mean_iou(table)


@torch.inference_mode()
def costs() -> dict[str, dict[str, Any]]:
    """Weights, operations and the time of a forward of each variant."""
    models = {name: build().eval() for name, build in VARIANTS.items()}
    image = torch.rand(1, 3, *RECIPE["size"])
    times = in_turn(
        {name: functools.partial(model, image) for name, model in models.items()},
        rounds=50,
        warmup=5,
    )
    rows: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        with FlopCounterMode(display=False) as counter:
            model(image)
        rows[name] = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "pyramid_parameters": sum(item.numel() for item in model.pyramid.parameters()),
            "gflops": round(counter.get_total_flops() / 1e9, 3),
            "forward_ms": times[name].summary(),
        }
    return rows


def report(runs: list[dict[str, Any]], cost: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record: the recipe, the mean IoU, costs, and all runs."""
    last = {}
    for variant in VARIANTS:
        values = [run["miou"] for run in runs if run["variant"] == variant]
        if values:
            last[variant] = spread(values)
    return {"recipe": RECIPE, "miou": last, "costs": cost, "runs": runs}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cost", action="store_true", help="only measure the costs again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = written(NAME)
    runs = list(record["runs"]) if record.get("recipe") == RECIPE else []
    cost = costs()
    if arguments.cost:
        write_result(NAME, report(runs, cost))
        return
    root, size = camvid.folder(), tuple(RECIPE["size"])
    data = {split: camvid.read(root, split, size) for split in ("train", "val")}
    done = {(run["variant"], run["seed"]) for run in runs}
    for seed, variant in itertools.product(range(RECIPE["seeds"]), VARIANTS):
        if (variant, seed) in done:
            continue
        runs.append(train(variant, seed, data))
        print(runs[-1], flush=True)
        write_result(NAME, report(runs, cost))


if __name__ == "__main__":
    main()
