"""Settings of the process for how float32 is multiplied, changed for a while and put back.

GPUs may round the factors to TF32 (10 bits of 23), which torch allows for convolutions by default;
CPUs may round them to TF32 or bfloat16 where they are told to. An error of ours can hide behind
such a rounding, so rewritten models are compared without it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

#: A setting is the process's: the second of two that change it would put back the first one's.
_CHANGING = threading.RLock()
#: What the factors are rounded to, by the name that torch gives it.
_ROUNDED = ("tf32", "bf16")
#: Where torch has the settings from 2.9 on: who multiplies, and what.
_PLACES = (
    ("cuda", "matmul"),
    ("cudnn", "conv"),
    # Nothing here has recurrent layers, so it is never asked. But the older name of both may be
    # read only while they agree, and other threads may read it: it is changed along.
    ("cudnn", "rnn"),
    ("mkldnn", "matmul"),
    ("mkldnn", "conv"),
)


def rounds_float32(device: torch.device) -> bool:
    """Whether torch may round the factors of convolutions or products in float32 there."""
    owners = ("mkldnn",) if device.type == "cpu" else ("cuda", "cudnn")
    places = [place for owner, name, place in _places() if owner in owners and name != "rnn"]
    if places:
        return any(place.fp32_precision in _ROUNDED for place in places)
    backends = torch.backends
    return device.type != "cpu" and (backends.cudnn.allow_tf32 or backends.cuda.matmul.allow_tf32)


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Meanwhile float32 is multiplied with all its bits, and cuDNN tries out no algorithms."""
    with _CHANGING, _put_back(), contextlib.ExitStack() as stack:
        stack.enter_context(_changed(torch.backends.cudnn, "benchmark", False))
        # The older settings first: while they say something else than the newer ones, torch refuses
        # to read them, and other threads may want to.
        stack.enter_context(_changed(torch.backends.cudnn, "allow_tf32", False))
        stack.enter_context(_highest())
        for *_, place in _places():
            place.fp32_precision = "ieee"
        yield


@contextlib.contextmanager
def trying_algorithms(device: torch.device) -> Iterator[None]:
    """Meanwhile cuDNN finds the fastest algorithm for each new shape by trying."""
    if device.type != "cuda":
        yield
        return
    with _CHANGING, _changed(torch.backends.cudnn, "benchmark", True):
        yield


def _places() -> list[tuple[str, str, Any]]:
    """The settings that this torch has, with the names of their owners and their own."""
    found = []
    for owner, name in _PLACES:
        place = getattr(getattr(torch.backends, owner), name, None)
        if hasattr(place, "fp32_precision"):
            found.append((owner, name, place))
    return found


@contextlib.contextmanager
def _put_back() -> Iterator[None]:
    """In the end the newer settings are what they were."""
    before = [(place, place.fp32_precision) for *_, place in _places()]
    try:
        yield
    finally:
        for place, value in before:
            # What was read may be a wider setting, which this one goes on following.
            place.fp32_precision = "none"
            if place.fp32_precision != value:
                place.fp32_precision = value


@contextlib.contextmanager
def _changed(owner: Any, name: str, value: object) -> Iterator[None]:
    """Meanwhile an attribute has another value, if torch lets it be read."""
    try:
        before = getattr(owner, name)
    except RuntimeError:  # an older setting that contradicts a newer one, which decides
        yield
        return
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _highest() -> Iterator[None]:
    """Meanwhile products of matrices are exact, by the older setting, if it can be read."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
