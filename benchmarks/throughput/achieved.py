"""What each part of the reference model takes, beside the least that it could take on this device.

    python -m benchmarks.throughput.achieved            on the GPU, or the CPU where there is none
    python -m benchmarks.throughput.achieved --cpu

The plain model and the optimised one run as graphs, round by round in turn, and the time of each
step goes to its part. Every step waits for the one before, so that the parts of a GPU add up to
more than the whole takes. The floor is that of :mod:`benchmarks.throughput.roofline`, the longer of
computing the plain model's FLOPs and moving the bytes of its block-fused account, at what this run
measures of the device.
"""

from __future__ import annotations

import argparse
import collections
import time
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

import segzoo
from benchmarks.common import randomise, summary, write_result
from benchmarks.throughput import roofline
from benchmarks.throughput.ceilings import ceilings
from segzoo.inference.optimize.trace import Body, trace
from segzoo.timing import synchronise

ROUNDS, WARMUP, SIDE = 15, 3, 512
#: Batch and precision: a GPU at its best, a CPU as it is used.
SETTINGS = {"cuda": (16, torch.bfloat16), "cpu": (1, torch.float32)}


class TimedGraph(nn.Module):
    """A graph that adds the milliseconds of each step to those of the step's part."""

    def __init__(self, graph: nn.Module, parts: Collection[str], device: torch.device) -> None:
        super().__init__()
        if not isinstance(graph, fx.GraphModule):
            raise TypeError(f"{type(graph).__name__} is not traced, so its steps cannot be told.")
        self.graph = graph
        self.device = device
        self.owners = owners(graph.graph.nodes, parts)
        self.times: dict[str, float] = collections.defaultdict(float)

    def forward(self, *inputs: Any) -> Any:
        """What the graph gives."""
        return _Steps(self).run(*inputs)


class _Steps(fx.Interpreter):
    def __init__(self, timed: TimedGraph) -> None:
        super().__init__(timed.graph)
        self.timed = timed

    def run_node(self, n: fx.Node) -> Any:
        start = time.perf_counter()
        result = super().run_node(n)
        synchronise(self.timed.device)
        self.timed.times[self.timed.owners[n]] += (time.perf_counter() - start) * 1e3
        return result


def owners(nodes: Iterable[fx.Node], parts: Collection[str]) -> dict[fx.Node, str]:
    """The part of each step, by the name of its module.

    Functions (resizing, concatenating) belong to the module after them; modules that are no part
    of their own (pooling) to the part before them.
    """
    known = {part.replace(".", "_"): part for part in parts}
    found: dict[fx.Node, str] = {}
    waiting: list[fx.Node] = []
    part = ""
    for node in nodes:
        waiting.append(node)
        if node.op == "call_module":
            name = str(node.target).replace(".", "_").removeprefix("fused_").removeprefix("model_")
            part = next((known[key] for key in known if f"{name}_".startswith(f"{key}_")), part)
            found |= dict.fromkeys(waiting, part)
            waiting.clear()
    return found | dict.fromkeys(waiting, part)


def timed(body: Body, parts: Collection[str], device: torch.device) -> list[TimedGraph]:
    """Put clocks around the graphs of a model, in place."""
    clocks = [TimedGraph(part, parts, device) for part in body.parts()]
    body.encoder.backbone, body.decode = clocks
    return clocks


def measure(device: str) -> dict[str, Any]:
    """The record for Unet-resnet34."""
    batch, dtype = SETTINGS[device]
    torch.manual_seed(0)
    model = segzoo.Unet("resnet34", classes=segzoo.bench.CLASSES)
    randomise(model)
    model.eval().to(device)
    image = torch.rand(batch, 3, SIDE, SIDE, device=device)
    limits = ceilings(device, dtype)
    given = {"gb_s": limits["copy_gb_s"], "tflop_s": limits["tflop_s"]}
    modelled = roofline.measure("resnet34", SIDE, batch, dtype.itemsize, given)
    parts = [row["part"] for row in modelled["parts"]]

    fast = segzoo.optimize(
        model, dtype=dtype, example=image, backend="auto" if device == "cpu" else "eager"
    )
    plain = trace(model, image[:1]).to(dtype).to(memory_format=torch.channels_last)
    bodies = {"plain": plain, "optimized": next(m for m in fast.modules() if isinstance(m, Body))}
    clocks = {name: timed(body, parts, image.device) for name, body in bodies.items()}
    image = image.to(dtype).contiguous(memory_format=torch.channels_last)
    rounds = in_rounds(bodies, clocks, image)
    rows = [
        {
            "part": row["part"],
            "gflops": row["eager"]["gflops"],
            "least_mb": row["block_fused"]["mb"],
            "floor_ms": round(floor(row, given), 3),
            **{name: summary([one[row["part"]] for one in rounds[name]]) for name in bodies},
        }
        for row in modelled["parts"]
    ]
    return {
        "device": device,
        "encoder": "resnet34",
        "size": [SIDE, SIDE],
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "ceilings": limits,
        "whole": {name: summary([sum(one.values()) for one in rounds[name]]) for name in bodies},
        "parts": rows,
    }


def floor(row: dict[str, Any], given: dict[str, float]) -> float:
    """Milliseconds for an image: the FLOPs of the plain part, or its least bytes."""
    return max(row["eager"]["gflops"] / given["tflop_s"], row["block_fused"]["mb"] / given["gb_s"])


@torch.no_grad()
def in_rounds(
    bodies: dict[str, Body], clocks: dict[str, list[TimedGraph]], image: Tensor
) -> dict[str, list[dict[str, float]]]:
    """Milliseconds of each part for an image: for each model a mapping for each round."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in bodies}
    for _ in range(WARMUP + ROUNDS):
        for name, body in bodies.items():
            body(image)
            both = [dict(clock.times) for clock in clocks[name]]
            found[name].append({key: ms / len(image) for one in both for key, ms in one.items()})
            for clock in clocks[name]:
                clock.times.clear()
    return {name: rounds[WARMUP:] for name, rounds in found.items()}


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="although there is a GPU")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = "cuda" if torch.cuda.is_available() and not given.cpu else "cpu"
    result = measure(device)
    for row in result["parts"]:
        print(row["part"], row["floor_ms"], row["plain"]["median"], row["optimized"]["median"])
    write_result(f"achieved_{'gpu' if device == 'cuda' else device}", result)


if __name__ == "__main__":
    main()
