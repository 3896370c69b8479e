"""The devices that torch sees, and what is wrong where it does not see one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .machine import Machine
from .problem import ERROR, WARNING, Problem

_GET_TORCH = "https://pytorch.org/get-started has the line for this machine."


@dataclass(frozen=True)
class Device:
    """A device beside the CPU.

    Attributes:
        name: torch's, such as ``cuda:0``; ``--device`` takes it.
        model: What it is called.
        memory_bytes: All of it; None where it is not known.
        bfloat16: Whether it computes in bfloat16 itself, not by emulation; None where it is not
            known.
    """

    name: str
    model: str
    memory_bytes: int | None
    bfloat16: bool | None


def find_devices(torch: Any) -> tuple[Device, ...]:
    """CUDA's (or ROCm's) devices, Intel's and Apple's."""
    found = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            with torch.cuda.device(index):  # the question is about the current one
                supported = bool(torch.cuda.is_bf16_supported(including_emulation=False))
            found.append(Device(f"cuda:{index}", about.name, about.total_memory, supported))
    if torch.xpu.is_available():
        for index in range(torch.xpu.device_count()):
            about = torch.xpu.get_device_properties(index)
            found.append(Device(f"xpu:{index}", about.name, about.total_memory, None))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU", None, None))
    return tuple(found)


def import_torch() -> tuple[ModuleType | None, list[Problem]]:
    """torch, or what it says when it cannot be imported."""
    try:
        import torch
    except Exception as error:  # a missing library of the system is an OSError, others are others
        reason = " ".join(str(error).split()) or type(error).__name__
        return None, [
            Problem(
                ERROR,
                f"torch cannot be imported: {reason}",
                f"pip install --force-reinstall torch torchvision; {_GET_TORCH}",
            )
        ]
    return torch, []


def numpy_bridge(torch: Any) -> Iterator[Problem]:
    """Whether tensors become arrays: a torch built for another NumPy imports, and fails here."""
    try:
        torch.zeros(1).numpy()
    except Exception as error:
        yield Problem(
            ERROR,
            f"torch and NumPy do not work together: {' '.join(str(error).split())}",
            'pip install --upgrade torch torchvision, or pip install "numpy<2" for an old torch.',
        )


def unseen_gpus(torch: Any, root: Path = Path("/")) -> Iterator[Problem]:
    """A graphics card with a driver that torch cannot use."""
    driver = (root / "proc" / "driver" / "nvidia" / "version").exists() or shutil.which(
        "nvidia-smi"
    )
    if not driver or torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return
    if torch.version.cuda is None:
        message = "There is an NVIDIA driver, but this torch is built without CUDA."
        yield Problem(WARNING, message, f"Install torch for CUDA. {_GET_TORCH}")
    else:
        yield Problem(
            WARNING,
            f"There is an NVIDIA driver, but torch (CUDA {torch.version.cuda}) finds no device.",
            "`nvidia-smi` tells whether the driver works, and which CUDA it is for at most; in a "
            "container, docker run --gpus all.",
        )


def unsupported_gpus(torch: Any) -> Iterator[Problem]:
    """Cards that this torch has no code for."""
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return
    built = [name for name in torch.cuda.get_arch_list() if name.startswith("sm_")]
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        # Code for one card of a generation runs on the later ones of it.
        fits = any(
            int(name[3:-1]) == major and int(name[-1]) <= minor for name in map(_bare, built)
        )
        # Code that is compiled when it is loaded runs on its own generation and all later ones.
        newer = any(
            (int(name[8:-1]), int(name[-1])) <= (major, minor)
            for name in map(_bare, torch.cuda.get_arch_list())
            if name.startswith("compute_")
        )
        if built and not fits and not newer:
            yield Problem(
                WARNING,
                f"cuda:{index} is of compute capability {major}.{minor}, which this torch has no "
                f"code for ({', '.join(built)}).",
                f"Install a torch that has. {_GET_TORCH}",
            )


def _bare(name: str) -> str:
    """``sm_90a`` as ``sm_90``."""
    return name.rstrip("af")


def too_many_threads(torch: Any, machine: Machine) -> Iterator[Problem]:
    """Threads that wait for each other: torch counts CPUs, and not what a container gets."""
    threads = torch.get_num_threads()
    if threads > machine.cpus:
        yield Problem(
            WARNING,
            f"torch computes with {threads} threads on {machine.cpus} "
            f"CPU{'s' if machine.cpus > 1 else ''}, which is slower than as many as there are.",
            f"Set OMP_NUM_THREADS={machine.cpus} before Python starts.",
        )
