"""The committed results, and how a table of them is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def record(name: str) -> dict[str, Any]:
    """A committed result."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def kinds(name: str) -> list[dict[str, Any]]:
    """The records of that name: the newest, then those that were put aside, of other processors."""
    aside = sorted(path.stem for path in RESULTS.glob(f"{name}_*.json"))
    return [record(found) for found in (name, *aside)]


def processor(where: dict[str, Any]) -> str:
    """A processor by its name and its instructions, as far as a record tells them."""
    return ", ".join([where["cpu"], *where.get("instructions", ())])


def markdown(head: list[str], rows: list[list[Any]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def environment(name: str) -> str:
    """One sentence on where a result was measured."""
    result = record(name)
    where = result["environment"]
    packages = ", ".join(f"{package} {number}" for package, number in where["packages"].items())
    if "asked" in result:
        name = result["asked"]
        return f"Asked of {name} {where['packages'][name]}; commit `{where['commit']}`."
    if "modelled" in result:
        return f"Modelled with {packages}; commit `{where['commit']}`."
    device = where["gpu"] or f"{where['cpu']}, {where['threads']} threads of {where['cores']} cores"
    return (
        f"Measured on {device}; Python {where['python']}, {packages}; commit `{where['commit']}`."
    )


def absent(module: str) -> str:
    """What stands in the place of a table whose benchmark was not run yet."""
    return f"*Not measured yet:* `python -m benchmarks.{module}`.\n"


def exists(name: str) -> bool:
    """Whether there is a result of that name."""
    return (RESULTS / f"{name}.json").exists()
