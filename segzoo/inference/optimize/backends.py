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

#: Backends by name, the plain one first.
BACKENDS = ("eager", "cudagraph", "compile", "max-autotune")
#: Those that compile, and the mode of torch's compiler. It is always asked for no graphs of its
#: own: they work in one thread only, the first.
_MODES = {"compile": None, "max-autotune": "max-autotune-no-cudagraphs"}
#: The compiler's settings are those of the process: one at a time changes them, and puts them back.
_COMPILING = threading.Lock()
_NUMBERS = itertools.count()


def compiles(name: str) -> bool:
    """Whether making that backend takes a compiler, and up to minutes."""
    return name in _MODES


def to_be_compared(name: str, device: torch.device) -> list[str]:
    """The backends of which the fastest is wanted, where a name stands for several.

    ``auto``: those that are made in a moment. ``fastest``: all that the device has.
    """
    if name not in ("auto", "fastest"):
        return [name]
    on_device = [item for item in BACKENDS if item != "cudagraph" or device.type == "cuda"]
    return [item for item in on_device if name == "fastest" or not compiles(item)]


def make_backend(name: str, body: nn.Module, image: Tensor) -> nn.Module:
    """Something to call instead of ``body``, made for images like ``image`` and warm already."""
    if compiles(name):
        compiled = CompiledFor(body, image, mode=_MODES[name])
        return RecordedFor(compiled, image) if image.device.type == "cuda" else compiled
    if name == "cudagraph":
        return RecordedFor(body, image)
    return body


class CompiledFor(nn.Module):
    """``torch.compile`` for one shape; on CPUs with frozen weights, which the compiler packs.

    Args:
        body: What is compiled.
        image: One of that shape.
        mode: Of ``torch.compile``.
    """

    def __init__(self, body: nn.Module, image: Tensor, *, mode: str | None = None) -> None:
        super().__init__()
        self.body = body
        self.shape = image.shape
        # The compiler looks at this when it begins, so it must stand while the first image runs.
        frozen = freezing() if image.device.type == "cpu" else contextlib.nullcontext()
        with _COMPILING, frozen, torch.no_grad():
            self.compiled = torch.compile(_own_code(body), dynamic=False, mode=mode)
            for _ in range(2):
                self.compiled(ordinary(image))

    @torch.inference_mode(False)  # in that mode it would be compiled once more, and not frozen
    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """The body's output."""
        same = image.shape == self.shape
        logits: Tensor = self.compiled(ordinary(image)) if same else self.body(image)
        return logits


class Rounded(nn.Module):
    """What computes in one precision, for images and logits of another.

    Args:
        run: What is run.
        inner: Its precision.
        outer: That of images and logits.
    """

    def __init__(self, run: nn.Module, *, inner: torch.dtype, outer: torch.dtype) -> None:
        super().__init__()
        self.run = run
        self.inner, self.outer = inner, outer

    def forward(self, image: Tensor) -> Tensor:
        """The logits of what is run."""
        logits: Tensor = self.run(image.to(self.inner))
        return logits.to(self.outer)


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

    Args:
        body: What is recorded.
        image: As those that will come, in its precision and layout.
        beside: Another one, for images of the same shape, whose image and memory it shares; of the
            two one runs at a time.
    """

    image: Tensor
    graph: torch.cuda.CUDAGraph

    def __init__(
        self, body: nn.Module, image: Tensor, *, beside: RecordedFor | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.image = image.clone() if beside is None else beside.image
        pool = None if beside is None else beside.graph.pool()
        if beside is None:  # a graph's memory is new, and while it is recorded nothing is freed
            torch.cuda.empty_cache()
        self.graph, self.logits = record(lambda: body(self.image), self.image, pool=pool)
        if beside is None:
            with torch.cuda.device_of(image):
                self.done = torch.cuda.Event()
            self.lock = Lock()
        else:
            self.done, self.lock = beside.done, beside.lock

    def takes(self, image: Tensor) -> bool:
        """Whether it was recorded for such an image, of any floating point type and layout."""
        return image.shape == self.image.shape

    def forward(self, image: Tensor) -> Tensor:
        """The body's output.

        An image that it :meth:`takes` may have any type and layout: it becomes what the graph reads
        in one copy.
        """
        if not self.takes(image):
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
