"""The device that a name stands for, and what has become of one: no memory left, or lost."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .errors import ArgumentError

#: What libraries say for want of memory, and only then. The word alone is in other errors too:
#: after an illegal memory access a GPU computes nothing more for this process, however small.
_LACKING = (
    "out of memory",
    "not enough memory",
    "allocate memory",
    "bad_alloc",
    "bad allocation",
    "status_alloc_failed",
)


def choose_device(name: str) -> torch.device:
    """A device by torch's name; ``auto`` is the first CUDA device, or the CPU where there is none.

    >>> choose_device("cpu")
    device(type='cpu')

    Raises:
        ArgumentError: torch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # of "meta" there are no values
    except Exception as error:
        # An unknown name, a missing driver and a build without support are each another type.
        reason = str(error).partition("\n")[0]
        raise ArgumentError(
            f"The device {name!r} cannot be used: {reason} Expected auto, cpu, cuda, cuda:1, ..."
        ) from error
    return device


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that there is not enough memory.

    >>> lacks_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."))
    True
    >>> lacks_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    False
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(words in text for words in _LACKING)


def device_of(model: Any) -> torch.device:
    """Where a model computes: what it says, or where its weights are; else the CPU.

    >>> device_of(torch.nn.Linear(1, 1))
    device(type='cpu')
    """
    device = getattr(model, "device", None)
    if isinstance(device, torch.device):
        return device
    weights = model.parameters() if isinstance(model, nn.Module) else ()
    weight = next((item for item in weights if item.is_floating_point()), None)
    return torch.device("cpu") if weight is None else weight.device


def is_lost(device: torch.device) -> bool:
    """Whether a GPU computes nothing more for this process, as after an illegal memory access.

    To be asked after a failure: the smallest computation fails then, too. Only a new process helps.

    >>> is_lost(torch.device("cpu"))
    False
    """
    if device.type == "cpu":
        return False
    try:
        torch.ones(1, device=device).sum().item()
    except Exception as error:  # whatever a driver says
        return not lacks_memory(error)
    return False
