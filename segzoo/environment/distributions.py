"""What is installed and whether it fits together, by the metadata of packages."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from .problem import ERROR, WARNING, Problem

#: Extra of segzoo -> what it brings to people who use segzoo.
BRINGS = {
    "train": "pictures of a training, several processes, the boundary score",
    "lora": "LoRA: large transformers fine-tuned by few weights",
    "export": "files for ONNX Runtime and OpenVINO",
    "quantize": "such files in 8-bit integers",
    "page": "pages on which a model runs in the browser",
    "serve": "a server that answers with masks",
    "geo": "GeoTIFF: scenes that keep their place on the ground",
    "tiff": "TIFF of any kind, JPEG 2000, PNG with 16 bits and colour",
    "parquet": "the manifest of a large run as a Parquet table",
    "ray": "predictions on a Ray cluster",
    "demo": "the demo: a photograph of coins, and its picture",
}
#: What a report of an error needs to name.
ALWAYS_TOLD = (
    *("torch", "torchvision", "timm", "huggingface-hub", "safetensors", "numpy", "pillow"),
)
#: Files that a package cannot do without.
_CODE = frozenset({".py", ".so", ".pyd", ".dylib", ".dll"})


@dataclass(frozen=True)
class Extra:
    """One of segzoo's extras.

    Attributes:
        name: As in ``segzoo[name]``.
        brings: What it is good for.
        missing: Its packages that are not installed.
    """

    name: str
    brings: str
    missing: tuple[str, ...]

    @property
    def command(self) -> str:
        """What installs it."""
        return f'pip install "segzoo[{self.name}]"'


def version_of(name: str) -> str | None:
    """The version of a distribution, or None where it is not installed."""
    try:
        found: str | None = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    return found


def requirements_of(name: str) -> tuple[Requirement, ...] | None:
    """What a distribution says it needs, with its markers; None where it is not installed."""
    try:
        lines = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return None
    found = []
    for line in lines:
        with contextlib.suppress(InvalidRequirement):  # as old packages write it
            found.append(Requirement(line))
    return tuple(found)


def find_extras(requirements: Sequence[Requirement]) -> tuple[Extra, ...]:
    """The extras of segzoo that its metadata know, with what is missing of each."""
    found = []
    for name, brings in BRINGS.items():
        of_it = [r for r in requirements if _only_for(r, name)]
        if of_it:
            missing = sorted({r.name for r in of_it if version_of(r.name) is None})
            found.append(Extra(name, brings, tuple(missing)))
    return tuple(found)


def unknown_extras(requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """Extras of this source that the metadata do not know: those are of another version."""
    return tuple(name for name in BRINGS if not any(_only_for(item, name) for item in requirements))


def _only_for(requirement: Requirement, extra: str) -> bool:
    """Whether something is needed with an extra, and not without."""
    return _applies(requirement, (extra,)) and not _applies(requirement, ())


def _applies(requirement: Requirement, extras: Sequence[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def misfits(requirements: Sequence[Requirement]) -> Iterator[Problem]:
    """Packages whose versions do not go together, among all that segzoo stands on.

    What is needed without any extra is an error, what an extra needs is a warning. An extra that is
    not installed is no problem.
    """
    needed = [item for item in requirements if _applies(item, ())]
    optional = [
        item
        for item in requirements
        if any(_only_for(item, extra) for extra in BRINGS) and version_of(item.name) is not None
    ]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    told: set[tuple[str, str]] = set()
    # What is always needed goes first, so that nothing of it is taken for an extra's.
    for level, beginning in ((ERROR, needed), (WARNING, optional)):
        waiting = [("segzoo", item) for item in beginning]
        while waiting:
            by, item = waiting.pop(0)
            problem = _unmet(by, item, level)
            if problem is not None and (by, item.name) not in told:
                told.add((by, item.name))
                yield problem
            key = (canonicalize_name(item.name), tuple(sorted(item.extras)))
            if key not in seen:
                seen.add(key)
                below = requirements_of(item.name) or ()
                waiting += [(item.name, needs) for needs in below if _applies(needs, key[1])]


def _unmet(by: str, requirement: Requirement, level: str) -> Problem | None:
    """What is wrong with one requirement, if anything is."""
    wanted = f"{requirement.name}{requirement.specifier}"
    found = version_of(requirement.name)
    remedy = f'pip install "{wanted}"'
    if by != "segzoo":
        remedy = f'pip install --upgrade {by} "{wanted}"'
    if found is None:
        return Problem(level, f"{by} needs {wanted}, which is not installed.", remedy)
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return Problem(level, f"{by} needs {wanted}, and {found} is installed.", remedy)


def incomplete(requirements: Sequence[Requirement]) -> Iterator[Problem]:
    """Packages of which files are gone: an update was interrupted, or two share a folder.

    Their metadata name each file that was installed. Only modules and libraries count: tests and
    what documents them are left out where images of containers are to be small.
    """
    needed = {canonicalize_name(item.name) for item in requirements if _applies(item, ())}
    for name in dict.fromkeys(canonicalize_name(item.name) for item in requirements):
        version = version_of(name)
        gone = [] if version is None else _missing_files(name)
        if gone:
            first = f"the first {gone[0]}" if len(gone) > 1 else gone[0]
            yield Problem(
                ERROR if name in needed else WARNING,
                f"{name} {version} is installed without {len(gone)} of its files: {first}.",
                f'pip install --force-reinstall --no-deps "{name}=={version}"',
            )


def _missing_files(name: str) -> list[str]:
    """Modules and libraries of a distribution that are not where its list has them."""
    found = metadata.distribution(name)
    # Not by its ``files``, which from Python 3.12 on are those that are there. Systems keep no
    # list, nor do installations from a folder of sources.
    rows = csv.reader((found.read_text("RECORD") or "").splitlines())
    code = (
        path
        for path in (PurePosixPath(row[0]) for row in rows if row)
        if path.suffix in _CODE and not {"test", "tests", "testing", ".."} & {*path.parts}
    )
    return [str(path) for path in code if not Path(str(found.locate_file(path))).exists()]


def torch_builds() -> Iterator[Problem]:
    """torch and torchvision that were built for different devices.

    Both write it behind their version: ``2.7.0+cpu``, ``0.22.0+cu128``. Then torchvision's
    operators are missing, and timm, which imports it, fails with
    "operator torchvision::nms does not exist".
    """
    builds = {name: _build(name) for name in ("torch", "torchvision")}
    if None not in builds.values() and len(set(builds.values())) > 1:
        pair = " and ".join(f"{name} {version_of(name)}" for name in builds)
        yield Problem(
            ERROR,
            f"{pair} are built for different devices.",
            "Install both from one index: pip install --force-reinstall torch torchvision "
            "--index-url https://download.pytorch.org/whl/cpu (or cu126, cu128 ...).",
        )


def _build(name: str) -> str | None:
    try:
        return Version(version_of(name) or "").local
    except InvalidVersion:
        return None
