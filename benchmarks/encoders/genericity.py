"""What it costs that the Unet takes any backbone, against one written by hand for its backbone.

    python -m benchmarks.encoders.genericity

The forward: the library's model beside a U-Net in plain torch on timm's own feature extractor, with
the same weights; the logits are compared first. The building: fresh processes in turn, in which
torch, timm and segzoo are imported already, for the first and for the second model in each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

import timm
import torch
from torch import Tensor, nn

import segzoo
from benchmarks.common import randomise, summary, write_result
from segzoo.timing import in_turn

SIZE, CLASSES = 256, 3
#: Encoder -> what timm must be told so that its plain feature extractor takes the size.
ENCODERS: dict[str, dict[str, Any]] = {
    "resnet34": {},
    "convnext_tiny": {},
    "swin_tiny_patch4_window7_224": {"strict_img_size": False},
}
WIDTHS = (256, 128, 64, 32, 16)


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions, each with normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ByHand(nn.Module):
    """The U-Net that one writes for one backbone, whose every number is known.

    Args:
        backbone: timm's feature extractor, down to stride 32.
        channels: Of its maps, finest first.
        nhwc: Its maps are ``(N, H, W, C)``.
    """

    def __init__(self, backbone: nn.Module, channels: list[int], *, nhwc: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.nhwc = nhwc
        skips = [*channels[-2::-1], 0, 0][: len(WIDTHS)]
        self.blocks = nn.ModuleList(
            double_conv(below + skip, width)
            for below, skip, width in zip((channels[-1], *WIDTHS), skips, WIDTHS, strict=False)
        )
        self.head = nn.Conv2d(WIDTHS[-1], CLASSES, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)``, sides multiples of 32 -> ``(N, CLASSES, H, W)``."""
        maps = self.backbone(image)
        if self.nhwc:
            maps = [item.permute(0, 3, 1, 2) for item in maps]
        x = maps.pop()
        for block in self.blocks:
            x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
            if maps:
                x = torch.cat([x, maps.pop()], dim=1)
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


def make_pair(name: str) -> tuple[segzoo.Unet, ByHand]:
    """The library's model and the one by hand with the same weights, in eval mode."""
    torch.manual_seed(0)
    ours = segzoo.Unet(name, classes=CLASSES)
    randomise(ours)
    backbone = timm.create_model(name, features_only=True, **ENCODERS[name])
    theirs = ByHand(
        backbone,
        backbone.feature_info.channels(),
        nhwc=getattr(backbone, "output_fmt", "NCHW") == "NHWC",
    )
    backbone.load_state_dict(ours.encoder.backbone.state_dict())
    theirs.head.load_state_dict(ours.head.conv.state_dict())
    # The same layers in the same order; only their names differ.
    values = iter(ours.decoder.blocks.state_dict().values())
    theirs.blocks.load_state_dict({key: next(values) for key in theirs.blocks.state_dict()})
    return ours.eval(), theirs.eval()


@torch.inference_mode()
def forward(name: str, rounds: int) -> dict[str, Any]:
    """The logits' difference, then the time of a forward, batch 1."""
    ours, theirs = make_pair(name)
    image = torch.rand(1, 3, SIZE, SIZE)
    difference = float((ours(image) - theirs(image)).abs().max())
    timings = in_turn(
        {"segzoo": lambda: ours(image), "by hand": lambda: theirs(image)}, rounds=rounds, warmup=5
    )
    return {
        "max_difference": difference,
        "milliseconds": {who: timing.summary() for who, timing in timings.items()},
        "ratio": round(timings["segzoo"].median / timings["by hand"].median, 4),
    }


CHILD = """
import json, time
import torch, timm, segzoo
from segzoo.nn.layers import SegmentationHead
from segzoo.architectures.unet import UnetConfig, UnetDecoder
torch.set_num_threads(1)
segzoo.Unet

def by_hand():
    backbone = timm.create_model("resnet34", features_only=True)
    info = backbone.feature_info
    features = tuple(map(segzoo.FeatureSpec, info.channels(), info.reduction()))
    return backbone, UnetDecoder(features, UnetConfig()), SegmentationHead(16, 3)

def build():
    start = time.perf_counter()
    {statement}
    return (time.perf_counter() - start) * 1e3

print(json.dumps([build(), build()]))
"""
BUILDS = {"segzoo": "segzoo.Unet('resnet34', classes=3)", "by hand": "by_hand()"}


def building(rounds: int) -> dict[str, Any]:
    """The first and the second build in a process, as whole processes in turn."""
    times: dict[str, list[list[float]]] = {name: [] for name in BUILDS}
    for _ in range(rounds):
        for name, statement in BUILDS.items():
            done = subprocess.run(
                [sys.executable, "-c", CHILD.format(statement=statement)],
                check=True,
                capture_output=True,
                text=True,
            )
            times[name].append(json.loads(done.stdout))
    rows: dict[str, Any] = {}
    for i, which in enumerate(("first", "second")):
        both = {name: [pair[i] for pair in pairs] for name, pairs in times.items()}
        ratio = statistics.median(both["segzoo"]) / statistics.median(both["by hand"])
        rows[which] = {
            "milliseconds": {name: summary(values) for name, values in both.items()},
            "ratio": round(ratio, 3),
        }
    return rows


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help="forwards of each model")
    parser.add_argument("--processes", type=int, default=15, help="of each kind of build")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = round(os.getloadavg()[0], 1)
    forwards = {}
    for name in ENCODERS:
        forwards[name] = forward(name, arguments.rounds)
        print(name, forwards[name], flush=True)
    builds = building(arguments.processes)
    print(builds)
    write_result(
        "genericity",
        {
            "load_at_the_start": load,  # processes that wanted a core: a quiet machine has none
            "size": [SIZE, SIZE],
            "rounds": arguments.rounds,
            "processes": arguments.processes,
            "forward": forwards,
            "building_resnet34": builds,
        },
    )


if __name__ == "__main__":
    main()
