"""The state of the graphics card: what decides its speed, and who else is using it."""

from __future__ import annotations

import subprocess
from typing import Any

import torch

#: What ``nvidia-smi`` is asked for: names of its own.
_STATE = (
    "clocks.sm",
    "clocks.mem",
    "power.draw",
    "temperature.gpu",
    "clocks_throttle_reasons.active",
)
_FACTS = ("name", "driver_version", "power.limit", "clocks.max.sm", "memory.total")


def facts() -> dict[str, Any]:
    """What stays: card, driver, limits, versions, and other processes on it. Empty without one."""
    if not torch.cuda.is_available():
        return {}
    others = _ask("--query-compute-apps=pid,used_memory", "--format=csv,noheader")
    return {
        "capability": list(torch.cuda.get_device_capability()),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "processes": len([line for line in (others or "").splitlines() if line.strip()]),
        **_values(_FACTS),
    }


def state() -> dict[str, str]:
    """Clocks, power, temperature and reasons of slowing down, as the card says now."""
    return _values(_STATE) if torch.cuda.is_available() else {}


def _values(names: tuple[str, ...]) -> dict[str, str]:
    line = _ask(f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0")
    if line is None:
        return {}
    values = [value.strip() for value in line.splitlines()[0].split(",")]
    return dict(zip(names, values, strict=False))


def _ask(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
