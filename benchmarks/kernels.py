"""Each Triton kernel beside torch's own convolution, on the shapes of the reference model.

    python -m benchmarks.kernels

The last three decoder blocks, the head and the first two layers of ``Unet("resnet34", classes=3)``
on 512x512 images. torch resizes, concatenates and convolves with cuDNN's best algorithm,
channels-last; both are recorded as CUDA graphs, so that the time of launching does not count, and
take turns. An output is compared before it is timed. Without a GPU nothing is timed and no record
is written: the kernels are then compared in Triton's interpreter, on tiny maps.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import write_result
from segzoo.inference.kernels import (
    ConvRelu,
    ConvReluHead,
    DoubleConcatConv,
    ImageConv,
    Kernel,
    MaxPool,
    self_check,
)
from segzoo.inference.kernels.checking import by_torch, compared, made, trial
from segzoo.inference.optimize.fused_conv import TRITON
from segzoo.timing import in_turn

#: Kernel, widths, side of its first map.
STEPS: tuple[tuple[type[Kernel], tuple[int, ...], int], ...] = (
    (DoubleConcatConv, (128, 64, 64), 64),
    (ConvRelu, (64, 64), 128),
    (DoubleConcatConv, (64, 64, 32), 128),
    (ConvRelu, (32, 32), 256),
    (DoubleConcatConv, (32, 0, 16), 256),
    (ConvRelu, (16, 16), 512),
    (ConvReluHead, (16, 16, 3), 512),
    (ImageConv, (3, 64, 7, 7, 2, 2, 3, 3), 512),
    (MaxPool, (64,), 256),
)
#: Name -> type, and whether float32 may be rounded to TF32.
TYPES = {
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
    "tf32": (torch.float32, True),
    "float32": (torch.float32, False),
}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """torch's own flag for convolutions, and cuDNN's search for its best algorithm."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=allowed):
        yield


def graphed(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """The call as a CUDA graph, and the tensor it writes to."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # tiles and algorithms are chosen before the recording
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    return graph.replay, out


@torch.no_grad()
def measured(
    kind: type[Kernel], widths: tuple[int, ...], side: int, batch: int, dtype: torch.dtype
) -> dict[str, Any]:
    """One step at one batch size: milliseconds of both, or why there are none."""
    weights, maps = trial(kind, widths, batch=batch, size=(side, side))
    layout = torch.channels_last
    on_device = [
        None if x is None else x.to("cuda", dtype).contiguous(memory_format=layout) for x in maps
    ]
    cast = [
        weight.to("cuda", dtype).contiguous(memory_format=layout)
        if weight.ndim == 4
        else weight.to("cuda", dtype)
        for weight in weights
    ]
    calls = {}
    for name, tile in TRITON.items():
        kernel = made(kind, widths, weights).to("cuda", dtype)
        kernel.tile = tile
        reason = self_check(kernel)
        if reason is not None:
            return {"reason": f"{name}: {reason}"}
        try:
            calls[name], out = graphed(partial(kernel, *on_device))
            calls[name]()
            reason = compared(out, kind, widths, weights, maps)
        except Exception as error:  # memory, a driver, a compiler: the record goes on
            reason = f"{type(error).__name__}: {str(error)[:200]}"
        if reason is not None:
            return {"reason": f"{name}: {reason}"}
    calls["torch"], _ = graphed(lambda: by_torch(kind, widths, cast, on_device))
    timings = in_turn(calls, device="cuda", rounds=9, turn=0.02)
    best = min(TRITON, key=lambda name: timings[name].median)
    return {
        "ms": {name: timing.summary() for name, timing in timings.items()},
        "best": best,
        "speed_up": round(timings[best].speed_up_over(timings["torch"]), 3),
    }


def measure(batches: Sequence[int]) -> None:
    """All steps, types and batch sizes; print and write the record."""
    rows = []
    for name, (dtype, allowed) in TYPES.items():
        for kind, widths, side in STEPS:
            for batch in batches:
                with tf32(allowed):
                    result = measured(kind, widths, side, batch, dtype)
                row = {"kernel": kind.__name__, "widths": widths, "side": side, "batch": batch}
                rows.append({**row, "type": name, **result})
                print(*rows[-1].values(), flush=True)
    write_result("kernels", {"rows": rows})


def interpret() -> None:
    """Compare the kernels of all steps in the interpreter, on tiny maps; no times."""
    wrong = False
    for kind, widths, _ in STEPS:
        reason = self_check(made(kind, widths, trial(kind, widths)[0]))
        print(f"{kind.__name__} {widths}: {reason or 'as near to float64 as torch'}", flush=True)
        wrong |= reason is not None
    sys.exit(wrong)


def main() -> None:
    """Measure where there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    batches = parser.parse_args().batches
    if torch.cuda.is_available():
        measure(batches)
    elif os.environ.get("TRITON_INTERPRET") == "1":
        interpret()
    else:
        print("Not measured: there is no CUDA device. In Triton's interpreter:", flush=True)
        # The interpreter must be chosen before anything imports Triton: in another process.
        command = [sys.executable, "-m", "benchmarks.kernels"]
        sys.exit(subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}).returncode)


if __name__ == "__main__":
    main()
