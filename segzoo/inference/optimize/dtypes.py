"""The precision that an optimised model computes in: named, asked for, or found by measuring."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import checks
from ...architectures.base import SegmentationModel
from ...errors import ArgumentError, OptimizationError, warn
from ...timing import in_turn
from .optimized_model import OptimizedModel, PassReport

#: The names of precisions.
NAMES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
#: What ``auto`` may choose from, beside the model's own.
_LOWER = (torch.bfloat16, torch.float16)
#: So many of the example's pixels must get the model's class in a precision that ``auto`` chooses.
_AGREEMENT = 0.99
#: A convolution in the middle of a network: channels, and the side of the map.
_PROBE = (128, 48)


def as_dtype(dtype: torch.dtype | str | None, own: torch.dtype) -> torch.dtype:
    """A precision from what a person gave; None for the model's own.

    Raises:
        ArgumentError: No floating point precision, or a name that is none.
    """
    if dtype is None:
        return own
    if isinstance(dtype, str):
        return NAMES[checks.choice("dtype", dtype, ("auto", *NAMES))]
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ArgumentError(
            f"dtype must be a floating point torch.dtype, its name, or 'auto', got {dtype!r}."
        )
    return dtype


def check_supported(dtype: torch.dtype, device: torch.device) -> None:
    """Raise where a device cannot convolve in a precision.

    Raises:
        ArgumentError: It cannot.
    """
    lacking = ArgumentError(f"The device {device} cannot compute in {dtype}; try torch.float32.")
    if device.type == "cuda" and dtype is torch.bfloat16:
        with torch.cuda.device(device):  # the question is about the current one
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise lacking
        return
    try:
        x = torch.zeros(1, 1, 3, 3, dtype=dtype, device=device)
        F.conv2d(x, x)
    except Exception as error:
        raise lacking from error


def warn_if_slower(dtype: torch.dtype, own: torch.dtype, device: torch.device) -> None:
    """Tell a person whose device computes a lower precision slower than the model's own.

    A processor without units for a type emulates it. What was asked for is done all the same.
    """
    if dtype.itemsize >= own.itemsize:
        return
    ratio = _times_as_long(dtype, own, device)
    if ratio > 1:
        warn(
            f"{device} takes {ratio:.1f} times as long for a convolution in {dtype} as in {own}. "
            "dtype='auto' takes the fastest that gives the model's classes."
        )


def computed_in(dtype: torch.dtype, device: torch.device) -> tuple[torch.dtype, str]:
    """The precision between image and logits where these two are to be in ``dtype``, and why.

    A processor without units of their own for numbers of 16 bits takes longer for them than for
    float32. Then all between is float32, and no error is larger for that.

    Returns:
        ``dtype`` and nothing to say, or float32 and the reason.
    """
    if device.type != "cpu" or dtype.itemsize >= torch.float32.itemsize:
        return dtype, ""
    ratio = _times_as_long(dtype, torch.float32, device)
    if not ratio > 1:
        return dtype, ""
    return torch.float32, f"a convolution in {dtype} takes {ratio:.1f} times as long here"


def _times_as_long(dtype: torch.dtype, other: torch.dtype, device: torch.device) -> float:
    """How much longer a convolution takes than in another precision."""
    chosen, plain = _probe(dtype, device), _probe(other, device)
    timings = in_turn(
        {"chosen": chosen, "plain": plain}, device=device, rounds=5, warmup=2, own_time=True
    )
    return timings["chosen"].undisturbed / timings["plain"].undisturbed


def _probe(dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    channels, side = _PROBE
    image = torch.ones(1, channels, side, side, dtype=dtype, device=device)
    weight = torch.ones(channels, channels, 3, 3, dtype=dtype, device=device)
    image, weight = (x.to(memory_format=torch.channels_last) for x in (image, weight))
    return lambda: F.conv2d(image, weight, padding=1)


def fastest(
    model: SegmentationModel,
    example: Tensor,
    build: Callable[[torch.dtype], OptimizedModel],
) -> OptimizedModel:
    """The fastest of a model's own and the lower precisions that gives the model's classes.

    Args:
        model: The source, in eval mode.
        example: The batch that is timed, and whose classes are compared.
        build: Makes the optimised model in a precision.
    """
    own = next(model.parameters()).dtype
    built, told = {own: build(own)}, []
    wanted = _classes(built[own], example)
    for dtype in _LOWER:
        if dtype.itemsize >= own.itemsize:
            continue
        try:
            check_supported(dtype, example.device)
            if computed_in(dtype, example.device)[0] is not dtype:
                told.append(f"{_name(dtype)}: slower than float32 here")
                continue
            candidate = build(dtype)
        except (ArgumentError, OptimizationError) as error:
            told.append(f"{_name(dtype)}: {_first_sentence(error)}")
            continue
        share = float((_classes(candidate, example) == wanted).double().mean())
        if share < _AGREEMENT:
            told.append(f"{_name(dtype)}: {1 - share:.1%} of the pixels get another class")
            continue
        built[dtype] = candidate
    calls = {_name(dtype): _call(item, example) for dtype, item in built.items()}
    timings = in_turn(calls, device=example.device, rounds=7, own_time=True)
    best = min(built, key=lambda dtype: timings[_name(dtype)].undisturbed)
    times = [f"{name} {timing.undisturbed:.3g} ms" for name, timing in timings.items()]
    report = PassReport("dtype", True, f"{_name(best)}, of {'; '.join([*times, *told])}")
    built[best].passes = (*built[best].passes, report)
    return built[best]


def _classes(model: OptimizedModel, example: Tensor) -> Tensor:
    logits: Tensor = model(example)
    return logits[:, 0] > model.threshold if model.classes == 1 else logits.max(dim=1).indices


def _call(model: OptimizedModel, example: Tensor) -> Callable[[], object]:
    image = example.to(model.dtype)
    return lambda: model(image)


def _first_sentence(error: Exception) -> str:
    """Up to the stop that a space follows, or nothing: in numbers and names there are others."""
    return str(error).partition(". ")[0].removesuffix(".")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
