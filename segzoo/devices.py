"""The device that a name on a command line stands for, and whether one has run out of memory."""

from __future__ import annotations

import torch

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
