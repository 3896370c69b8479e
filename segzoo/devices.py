"""The device that a name on a command line stands for, and what the processor is called."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from pathlib import Path

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
        torch.empty(1, device=device)
    except Exception as error:
        # An unknown name, a missing driver and a build without support are each another type.
        reason = str(error).partition("\n")[0]
        raise ArgumentError(
            f"The device {name!r} cannot be used: {reason} Expected auto, cpu, cuda, cuda:1, ..."
        ) from error
    return device


def processor_name() -> str:
    """What this machine's processor is called, as far as the system says so."""
    with suppress(OSError):  # Linux
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() in ("model name", "Model") and name.strip():
                return name.strip()
    with suppress(OSError, subprocess.SubprocessError):  # macOS
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True)
        if found.stdout.strip():
            return found.stdout.strip()
    return platform.processor() or platform.machine() or "an unknown processor"
