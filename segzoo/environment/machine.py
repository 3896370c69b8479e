"""The processor, its memory, and how much of both this process may use."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

#: As Linux names them -> as people do: what fast convolutions are made of.
_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX INT8",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "BF16",
    "i8mm": "INT8 matrices",
}
#: Those that multiply bfloat16.
_BFLOAT16 = {"AVX-512 BF16", "AMX BF16", "BF16"}
#: A limit of memory above this is none.
_NO_LIMIT = 2**60


@dataclass(frozen=True)
class Machine:
    """What computes.

    Attributes:
        system: The operating system and its version.
        processor: Its name, as far as it is known.
        instructions: Those that speed depends on; empty where the system does not tell.
        bfloat16: Whether the processor has units for bfloat16; None where it is not known.
        cpus: How many of its CPUs this process may use, a container's limit included.
        memory_bytes: What this process may use; None where it is not known.
    """

    system: str
    processor: str
    instructions: tuple[str, ...]
    bfloat16: bool | None
    cpus: int
    memory_bytes: int | None


def find_machine(root: Path = Path("/")) -> Machine:
    """What is known of this machine.

    Args:
        root: Where the files of the system are.
    """
    about = _cpuinfo(root / "proc" / "cpuinfo")
    flags = (about.get("flags") or about.get("features") or "").split()
    instructions = tuple(name for flag, name in _INSTRUCTIONS.items() if flag in flags)
    return Machine(
        system=platform.platform(),
        processor=processor_name(root),
        instructions=instructions,
        bfloat16=bool(_BFLOAT16 & set(instructions)) if flags else None,
        cpus=usable_cpus(root),
        memory_bytes=usable_memory(root),
    )


def processor_name(root: Path = Path("/")) -> str:
    """What this machine's processor is called, as far as the system says so."""
    with contextlib.suppress(OSError):  # Linux; a Raspberry Pi says it at the end
        text = (root / "proc" / "cpuinfo").read_text(errors="replace")
        for line in text.splitlines():
            key, _, name = line.partition(":")
            if key.strip() in ("model name", "Model") and name.strip():
                return name.strip()
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # macOS
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True)
        if found.stdout.strip():
            return found.stdout.strip()
    return platform.processor() or platform.machine() or "an unknown processor"


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use: all, those it is bound to, or a container's share."""
    bound: int = os.cpu_count() or 1
    with contextlib.suppress(AttributeError):  # macOS and Windows cannot say
        bound = len(os.sched_getaffinity(0))
    quota = _quota(root / "sys" / "fs" / "cgroup")
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def usable_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may use: the machine's, or what a container has of it."""
    known = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    group = root / "sys" / "fs" / "cgroup"
    for file in (group / "memory.max", group / "memory" / "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            known.append(int(file.read_text()))
    known = [value for value in known if 0 < value < _NO_LIMIT]
    return min(known, default=None)


def _quota(group: Path) -> float | None:
    """CPUs' worth of time that a container gets, by version 2 or 1 of control groups."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = (group / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (group / "cpu" / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


def _cpuinfo(path: Path) -> dict[str, str]:
    """What Linux says of the first CPU; empty elsewhere."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if not colon and found:  # the end of the first CPU
                break
            found[name.strip().lower()] = value.strip()
    return found
