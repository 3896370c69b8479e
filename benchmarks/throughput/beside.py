"""What users feel beside the mean rate: latencies, energy, and the way from picture to mask."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from segzoo.bench import ModelCall
from segzoo.preprocessing import Normalization
from segzoo.timing import synchronise

#: Calls whose latencies are taken.
_CALLS = 200
#: Seconds of work whose energy is read: the counter is renewed some ten times a second.
_ENERGY_SECONDS = 2.0


def measure_beside(
    call: Callable[[], Any], normalization: Normalization, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Latencies, energy and the rate from picture to mask of one implementation.

    Args:
        call: As it was timed; one that is not a :class:`segzoo.bench.ModelCall` has no other input
            than its own, and so neither a way from picture to mask nor another shape.
        normalization: Of the model's encoder.
        device: Where it computes.
        seconds: No call begins after these, once there were three.

    Returns:
        ``latency_ms`` with ``p50`` and ``p99``; ``joules`` a call, where the device counts them; of
        a ModelCall also ``picture_to_mask_ms`` and ``first_call_at_another_shape_ms``.
    """
    found: dict[str, Any] = {"latency_ms": latencies(call, device, seconds)}
    joules = energy(call, device)
    if joules is not None:
        found["joules"] = round(joules, 4)
    if isinstance(call, ModelCall):
        way = picture_to_mask(call, normalization)
        way()
        found["picture_to_mask_ms"] = latencies(way, device, seconds)
        found["first_call_at_another_shape_ms"] = round(first_at_another_shape(call, device), 1)
    return found


def latencies(call: Callable[[], Any], device: torch.device, seconds: float) -> dict[str, float]:
    """Of calls that are waited for one by one, as a server does; milliseconds."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < _CALLS and (time.perf_counter() - began < seconds or len(times) < 3):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append((time.perf_counter() - start) * 1e3)
    ordered = sorted(times)
    last = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return {"p50": round(statistics.median(times), 3), "p99": round(last, 3), "calls": len(times)}


def energy(call: Callable[[], Any], device: torch.device) -> float | None:
    """Joules of a call, from the card's own counter; None where nothing counts."""
    counter = _counter(device)
    if counter is None:
        return None
    synchronise(device)
    before, began, calls = counter(), time.perf_counter(), 0
    while time.perf_counter() - began < _ENERGY_SECONDS:
        call()
        calls += 1
        if calls % 8 == 0:
            synchronise(device)
    synchronise(device)
    return (counter() - before) / calls


def _counter(device: torch.device) -> Callable[[], float] | None:
    """Joules since the card's driver was loaded (Volta and later, with nvidia-ml-py)."""
    if device.type != "cuda":
        return None
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(
            f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        )
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, an older card, a container without the library
        return None
    return lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def picture_to_mask(call: ModelCall, normalization: Normalization) -> Callable[[], Tensor]:
    """From 8-bit pictures in the host's memory to 8-bit masks there, the same way for everyone.

    But for who decides: a model that gives masks does so, of others the largest logit is found.
    """
    masks: Callable[[Tensor], Tensor] | None = getattr(call.model, "masks", None)
    image = call.image
    generator = torch.Generator().manual_seed(5)
    pictures = torch.randint(0, 256, tuple(image.shape), dtype=torch.uint8, generator=generator)
    form = (
        torch.channels_last
        if image.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    if image.device.type == "cuda":
        pictures = pictures.pin_memory()

    def way() -> Tensor:
        with torch.inference_mode():
            on_device = pictures.to(image.device, non_blocking=True)
            ready = normalization(on_device).to(image.dtype).contiguous(memory_format=form)
            if masks is not None:
                return masks(ready).cpu()
            logits: Tensor = call.model(ready)
            return logits.max(dim=1).indices.to(torch.uint8).cpu()

    return way


def first_at_another_shape(call: ModelCall, device: torch.device) -> float:
    """Milliseconds of the first call with images of other sides, compilation included."""
    height, width = call.image.shape[-2:]
    other = call.image[..., : height // 64 * 32 or height, : width // 64 * 32 or width]
    form = (
        torch.channels_last
        if call.image.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    other = other.contiguous(memory_format=form)
    synchronise(device)
    start = time.perf_counter()
    with torch.inference_mode():
        call.model(other)
    synchronise(device)
    return (time.perf_counter() - start) * 1e3


def best_of_each(ways: Mapping[str, Mapping[str, Any]], library: str) -> list[str]:
    """The names of the fastest of ours and of the rival's, which are looked at more closely."""
    timed = {name: row["ms"]["median"] for name, row in ways.items() if "ms" in row}
    found = []
    for side in ("segzoo", library):
        names = [name for name in timed if name.startswith(f"{side} ")]
        found += [min(names, key=timed.__getitem__)] if names else []
    return found
