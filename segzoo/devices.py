"""The device that a name on a command line stands for."""

from __future__ import annotations

import torch

from .errors import ArgumentError


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
