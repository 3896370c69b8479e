"""Work that is recorded once on a CUDA device and launched as a whole from then on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Runs before recording: libraries choose their kernels, and kernels are compiled, in the first.
_WARMUP = 3
#: torch records one graph at a time in a process.
_RECORDING = threading.Lock()
#: What is recorded on, by device; always the same: a pool's memory is used again on the stream only
#: that it was first used on.
_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def record(
    call: Callable[[], Tensor], image: Tensor, *, repeats: int = 1, pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Record a call, or several one after the other, on the device of ``image``.

    Args:
        call: What is recorded, always on the same tensors; it must not wait for the device.
        image: Any tensor that is on the device.
        repeats: How many calls the graph holds.
        pool: That of another graph, whose memory it works in: only one of them may run at a time.

    Returns:
        The graph, and the tensor that holds the last call's output after each replay.
    """
    graph = torch.cuda.CUDAGraph()
    # All of it on the image's device: a graph is recorded on the current one, and what runs on
    # another is not in it.
    with torch.cuda.device_of(image), _RECORDING:
        # As torch asks for: first runs on another stream, so that nothing of them is recorded.
        if image.device not in _STREAMS:
            _STREAMS[image.device] = torch.cuda.Stream(image.device)
        stream = _STREAMS[image.device]
        stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARMUP):
                call()
            # Not by torch.cuda.graph: it empties the allocator's cache each time, and up to torch
            # 2.8 collects garbage, which takes longer than what is timed here. Other threads go on
            # using the device.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                for _ in range(repeats):
                    output = call()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(image.device).wait_stream(stream)
    return graph, output


def memory_pool(device: torch.device) -> Any:
    """Memory that several graphs may work in, one at a time; None where there are no graphs."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


def launched_at_once(
    call: Callable[[], Tensor], image: Tensor, repeats: int, pool: Any = None
) -> Callable[[], Tensor]:
    """So many calls as one launch, to be timed: a launch may take longer than its work.

    A call that cannot be recorded is launched as often: beside the others it would seem to be
    faster by that factor.
    """
    try:
        graph, output = record(call, image, repeats=repeats, pool=pool)
    except Exception:  # whatever the device or a library says of recording
        return lambda: [call() for _ in range(repeats)][-1]

    def replay() -> Tensor:
        with torch.cuda.device_of(image):
            graph.replay()
        return output

    return replay
