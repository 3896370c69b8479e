"""Who runs an optimised model: PyTorch step by step, its compiler, or a recorded CUDA graph.

The compiler and the graph are made for one shape. An image of another shape runs step by step, so
that sizes that change cost neither a recompilation nor memory for each of them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor, nn

from ..._compat import freezing
from ...nn.sharing import Lock
from .cuda_graph import record

#: Backends by name, the plain one first; ``auto`` takes the fastest that the device has.
BACKENDS = ("eager", "compile", "cudagraph")
#: The compiler's settings are those of the process: one at a time changes them, and puts them back.
_COMPILING = threading.Lock()
_NUMBERS = itertools.count()


def make_backend(name: str, body: nn.Module, image: Tensor) -> nn.Module:
    """Something to call instead of ``body``, made for images like ``image`` and warm already."""
    if name == "compile":
        compiled = CompiledFor(body, image)
        # Not with the compiler's own graphs: they work in one thread only, the first.
        return RecordedFor(compiled, image) if image.device.type == "cuda" else compiled
    if name == "cudagraph":
        return RecordedFor(body, image)
    return body


class CompiledFor(nn.Module):
    """``torch.compile`` for one shape; on CPUs with frozen weights, which the compiler packs."""

    def __init__(self, body: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.body = body
        self.shape = image.shape
        # The compiler looks at this when it begins, so it must stand while the first image runs.
        frozen = freezing() if image.device.type == "cpu" else contextlib.nullcontext()
        with _COMPILING, frozen, torch.no_grad():
            self.compiled = torch.compile(_own_code(body), dynamic=False)
            for _ in range(2):
                self.compiled(ordinary(image))

    @torch.inference_mode(False)  # in that mode it would be compiled once more, and not frozen
    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """The body's output."""
        same = image.shape == self.shape
        logits: Tensor = self.compiled(ordinary(image)) if same else self.body(image)
        return logits


def _own_code(body: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function that calls the module, with a code object that no other function has.

    The compiler keeps what it compiled by code object, eight versions of each, and runs the ninth
    step by step without a word. All modules of one class share the code of their ``forward``.
    """

    def run(image: Tensor) -> Tensor:
        logits: Tensor = body(image)
        return logits

    code = run.__code__.replace(co_name=f"run_{next(_NUMBERS)}")
    return FunctionType(code, run.__globals__, code.co_name, closure=run.__closure__)


def ordinary(image: Tensor) -> Tensor:
    """The image as a tensor that is not of inference mode, which the compiler tells apart."""
    return image.clone() if image.is_inference() else image


class RecordedFor(nn.Module):
    """A CUDA graph: all kernels of one forward, launched at once.

    At small batches the launches take longer than the work; a graph has one.
    """

    def __init__(self, body: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.body = body
        self.image = image.clone()
        self.graph, self.logits = record(lambda: body(self.image), self.image)
        with torch.cuda.device_of(image):
            self.done = torch.cuda.Event()
        self.lock = Lock()

    def forward(self, image: Tensor) -> Tensor:
        """The body's output."""
        if image.shape != self.image.shape:
            logits: Tensor = self.body(image)
            return logits
        # One image and one place for logits: they belong to one call at a time, on the device too,
        # where threads may have streams of their own.
        with self.lock, torch.cuda.device_of(image):
            stream = torch.cuda.current_stream(self.image.device)
            stream.wait_event(self.done)
            self.image.copy_(image)
            self.graph.replay()
            logits = self.logits.clone()
            self.done.record(stream)
        return logits
