"""Who runs an optimised model: PyTorch step by step, its compiler, or a recorded CUDA graph.

The compiler and the graph are made for one shape. An image of another shape runs step by step, so
that sizes that change cost neither a recompilation nor memory for each of them.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from ..._compat import freezing

#: Backends by name, the plain one first; ``auto`` takes the fastest that the device has.
BACKENDS = ("eager", "compile", "cudagraph")


def make_backend(name: str, body: nn.Module, image: Tensor) -> nn.Module:
    """Something to call instead of ``body``, made for images like ``image`` and warm already."""
    if name == "compile":
        return CompiledFor(body, image)
    if name == "cudagraph":
        return RecordedFor(body, image)
    return body


class CompiledFor(nn.Module):
    """``torch.compile`` for one shape; on CPUs with frozen weights, which the compiler packs."""

    def __init__(self, body: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.body = body
        self.shape = image.shape
        cpu = image.device.type == "cpu"
        # The compiler looks at this when it begins, so it must stand while the first image runs.
        frozen = freezing() if cpu else contextlib.nullcontext()
        mode = "default" if cpu else "reduce-overhead"  # the latter records CUDA graphs
        with frozen, torch.no_grad():
            self.compiled = torch.compile(body, dynamic=False, mode=mode)
            for _ in range(3):  # compile, record the graph, replay it
                self.compiled(image)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """The body's output."""
        run = self.compiled if image.shape == self.shape else self.body
        logits: Tensor = run(image)
        # A graph's own memory is written again by the next call.
        return logits.clone() if image.device.type == "cuda" else logits


class RecordedFor(nn.Module):
    """A CUDA graph: all kernels of one forward, launched at once.

    At small batches the launches take longer than the work; a graph has one.
    """

    def __init__(self, body: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.body = body
        self.image = image.clone()
        # As torch asks for: first runs on another stream, so that nothing of them is recorded.
        stream = torch.cuda.Stream(image.device)
        stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                body(self.image)
        torch.cuda.current_stream(image.device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits: Tensor = body(self.image)

    def forward(self, image: Tensor) -> Tensor:
        """The body's output."""
        if image.shape != self.image.shape:
            logits: Tensor = self.body(image)
            return logits
        self.image.copy_(image)
        self.graph.replay()
        return self.logits.clone()
