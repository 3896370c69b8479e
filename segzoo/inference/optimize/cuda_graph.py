"""Work that is recorded once on a CUDA device and launched as a whole from then on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Runs before recording: libraries choose their kernels, and kernels are compiled, in the first.
_WARMUP = 3


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
    with torch.cuda.device_of(image):
        # As torch asks for: first runs on another stream, so that nothing of them is recorded.
        stream = torch.cuda.Stream(image.device)
        stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARMUP):
                call()
        torch.cuda.current_stream(image.device).wait_stream(stream)
        # On that stream, as torch's own for recording stays on the device that was current when it
        # was first needed. Other threads go on using the device.
        held = {} if pool is None else {"pool": pool}
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local", **held):
            for _ in range(repeats):
                output = call()
    return graph, output


def launched_at_once(
    call: Callable[[], Tensor], image: Tensor, repeats: int
) -> Callable[[], Tensor]:
    """So many calls as one launch, to be timed: a launch may take longer than its work.

    A call that cannot be recorded stays what it is.
    """
    try:
        graph, output = record(call, image, repeats=repeats)
    except Exception:  # whatever the device or a library says of recording
        return call

    def replay() -> Tensor:
        with torch.cuda.device_of(image):
            graph.replay()
        return output

    return replay
