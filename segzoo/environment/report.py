"""All that is known of an environment, put together."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from . import devices, distributions, folders
from .devices import Device
from .distributions import Extra
from .folders import Folder
from .machine import Machine, find_machine
from .problem import ERROR, WARNING, Problem


@dataclass(frozen=True)
class EnvironmentReport:
    """What segzoo runs on, and what is wrong with it.

    Attributes:
        versions: Package -> its version, None where it is not installed; ``python`` is one of them.
        location: The folder that segzoo is imported from.
        machine: The processor and what of it may be used.
        threads: How many torch computes with; None where torch cannot be imported.
        devices: Those that torch sees beside the CPU.
        folders: Where downloads go.
        extras: What can be installed with segzoo, and what is missing of it.
        problems: Errors first.
    """

    versions: dict[str, str | None]
    location: str
    machine: Machine
    threads: int | None
    devices: tuple[Device, ...]
    folders: tuple[Folder, ...]
    extras: tuple[Extra, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Why something of segzoo does not work here."""
        return tuple(item for item in self.problems if item.level == ERROR)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What could be better."""
        return tuple(item for item in self.problems if item.level == WARNING)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def check_environment() -> EnvironmentReport:
    """Look at what segzoo runs on: versions, devices, extras, and what is wrong with them.

    Nothing is changed, downloaded or written, and of all packages only torch and the Hub's client
    are imported. ``print(segzoo.check_environment())`` is what a report of an error should begin
    with; ``segzoo doctor`` prints the same.
    """
    machine = find_machine()
    torch, problems = devices.import_torch()
    requirements = distributions.requirements_of("segzoo")
    problems += _of_packages(requirements)
    if torch is not None:
        problems += devices.numpy_bridge(torch)
        problems += devices.unseen_gpus(torch)
        problems += devices.unsupported_gpus(torch)
        problems += devices.too_many_threads(torch, machine)
    where = folders.find_folders()
    problems += [*folders.folder_problems(where), *folders.offline(), *folders.shared_memory()]
    return EnvironmentReport(
        versions={
            "segzoo": __version__,
            "python": platform.python_version(),
            **{name: distributions.version_of(name) for name in distributions.ALWAYS_TOLD},
        },
        location=str(Path(__file__).parents[1]),
        machine=machine,
        threads=None if torch is None else torch.get_num_threads(),
        devices=() if torch is None else devices.find_devices(torch),
        folders=where,
        extras=distributions.find_extras(requirements or ()),
        problems=tuple(sorted(problems, key=lambda item: item.level != ERROR)),
    )


def _of_packages(requirements: tuple[Any, ...] | None) -> Iterator[Problem]:
    yield from distributions.torch_builds()
    if requirements is None:
        yield Problem(
            WARNING,
            "segzoo is not installed, only imported from a folder: what it needs is not known.",
            "pip install . in that folder.",
        )
        return
    yield from distributions.misfits(requirements)
    yield from distributions.incomplete(requirements)
    unknown = distributions.unknown_extras(requirements)
    if unknown:
        yield Problem(
            WARNING,
            f"segzoo was installed before it had the extras {', '.join(unknown)}.",
            "Install it again: pip install -e . (or pip install --upgrade segzoo).",
        )


def _lines(report: EnvironmentReport) -> Iterator[str]:
    machine = report.machine
    facts = {
        **{name: version or "not installed" for name, version in report.versions.items()},
        "location": report.location,
        "system": machine.system,
        "processor": ", ".join([machine.processor, *machine.instructions]),
        "threads": f"{report.threads or '?'} on {machine.cpus} CPUs",
        "memory": _size(machine.memory_bytes),
    }
    for device in report.devices:
        bfloat16 = ", bfloat16" if device.bfloat16 else ""
        facts[device.name] = f"{device.model}, {_size(device.memory_bytes)}{bfloat16}"
    if not report.devices:
        facts["devices"] = "the CPU alone"
    for folder in report.folders:
        facts["cache"] = f"{folder.path} ({_size(folder.free_bytes)} free)"
    width = max(map(len, facts)) + 2
    yield from (f"{name:{width}}{value}" for name, value in facts.items())
    yield from _extras(report.extras, width)
    yield ""
    for problem in report.problems:
        yield f"{problem.level}: {problem.message}"
        yield f"  {problem.remedy}"
    if not report.problems:
        yield "No problems found."


def _extras(extras: tuple[Extra, ...], width: int) -> Iterator[str]:
    if not extras:
        return
    yield ""
    there = [extra.name for extra in extras if not extra.missing]
    yield f"{'extras':{width}}{', '.join(there) or 'none'}"
    for extra in extras:
        if extra.missing:
            missing = ", ".join(extra.missing)
            yield f"{extra.name:{width}}not installed ({missing}): {extra.brings}"
            yield f"{'':{width}}{extra.command}"


def _size(count: int | None) -> str:
    return "not known" if count is None else f"{count / 2**30:.1f} GiB"
