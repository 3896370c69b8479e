"""Algorithms for a 3x3 convolution on a CPU: oneDNN's, Winograd's, and squares for few outputs.

    python -m benchmarks.convolutions [--threads 1]

The shapes are those of Unet-resnet34 at 512x512. Algorithms take turns on each, and their outputs
are compared with float64. Where optimize does not try one, it is timed here all the same.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.common import summary, write_result
from segzoo.inference.optimize.fused_conv import FusedConv, Geometry
from segzoo.inference.optimize.winograd import WINOGRAD, choices
from segzoo.timing import in_turn, largest_difference

#: Channels in and out, and the side of the map.
SHAPES = ((64, 64, 128), (128, 128, 64), (256, 256, 32), (512, 512, 16), (16, 3, 512))
ROUNDS = 15


@torch.inference_mode()
def measure(channels: int, outputs: int, side: int) -> dict[str, Any]:
    """Milliseconds and errors of each algorithm, for one image."""
    torch.manual_seed(0)
    x = torch.randn(1, channels, side, side).relu()
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    calls = {}
    # With many tiles there is one size of them.
    winograd = [name for name in WINOGRAD if name != "winograd_4x4" or name in choices(weight, x)]
    for kernel in ("onednn", *(["squares"] if outputs < channels else winograd)):
        conv = FusedConv(weight, None, Geometry())
        conv.use(kernel, x)
        calls[kernel] = functools.partial(conv, x)
    timings = in_turn(calls, rounds=ROUNDS, turn=0.02, own_time=True)
    return {
        "channels": [channels, outputs],
        "side": side,
        "ways": {
            kernel: {
                "ms": summary(timings[kernel].rounds),
                "speed_up": round(timings[kernel].speed_up_over(timings["onednn"]), 3),
                "difference_to_float64": float(f"{largest_difference(call(), exact):.2g}"),
            }
            for kernel, call in calls.items()
        },
    }


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    rows = [measure(*shape) for shape in SHAPES]
    for row in rows:
        print(row["channels"], row["side"], row["ways"])
    write_result("convolutions", {"dtype": "float32", "rounds": ROUNDS}, rows=rows)


if __name__ == "__main__":
    main()
