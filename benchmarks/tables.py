"""Markdown tables for the documentation, made from the committed results and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def record(name: str) -> dict[str, Any]:
    """A committed result."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def markdown(head: list[str], rows: list[list[Any]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def environment(name: str) -> str:
    """One sentence on where a result was measured."""
    where = record(name)["environment"]
    packages = ", ".join(f"{package} {number}" for package, number in where["packages"].items())
    device = where["gpu"] or f"{where['cpu']}, {where['threads']} threads of {where['cores']} cores"
    return (
        f"Measured on {device}; Python {where['python']}, {packages}; commit `{where['commit']}`."
    )


def parity() -> str:
    """The Unet against smp."""
    rows = []
    for case in record("parity")["cases"]:
        named = ", ".join(f"{key}={value}" for key, value in case["arguments"].items())
        differences = case["eval_max_difference_float32"]
        rows.append(
            [
                named or "defaults",
                *(f"{value:g}" for value in differences.values()),
                f"{case['step_max_relative_difference_float64']:.1e}",
            ]
        )
    sizes = list(record("parity")["cases"][0]["eval_max_difference_float32"])
    head = ["arguments", *(f"logits, {size}" for size in sizes), "gradients and statistics"]
    return markdown(head, rows)


def importing() -> str:
    """What the import costs."""
    result = record("importing")
    rows = [
        [f"`import {name}`", f"{times['median']:.0f} ms"]
        for name, times in result["milliseconds"].items()
    ]
    return markdown(["statement", "whole process, median"], [*rows, ["ratio", result["ratio"]]])


def coverage(name: str) -> str:
    """How many architectures of a sample work."""
    result = record(name)
    total = result["architectures"]
    rows = [[who, f"{count} of {total}"] for who, count in result["works_at_all_sizes"].items()]
    return markdown(["library", f"works at {', '.join(result['sizes'])}"], rows)


def loading() -> str:
    """What loading a saved model costs."""
    rows = [
        [name, f"{row['total_s']:.2f} s", f"{row['peak_kib'] / 1024:.0f} MiB"]
        for name, row in record("loading")["medians"].items()
    ]
    return markdown(["whole process", "time, median", "peak memory, median"], rows)


def rivals() -> str:
    """The same trials on every library."""
    result = record("rivals")
    names = list(result["versions"])
    reached = record("coverage_sample")
    works, total = reached["works_at_all_sizes"], reached["architectures"]
    title = (
        f"Works as a U-Net's encoder at {', '.join(reached['sizes'])}: {total} architectures, "
        f"evenly spread over timm's {reached['of']}"
    )
    rows = [[title, *(f"{works[n]} of {total}" if n in works else "not measured" for n in names)]]
    for trial, row in result["trials"].items():
        rows.append([trial, *(row[name].partition(":")[0] for name in names)])
    return markdown(["", *(f"{name} {result['versions'][name]}" for name in names)], rows)


def demo_iou() -> str:
    """The demo over its seeds."""
    rows = [
        [run["seed"], run["steps"], f"{run['iou']:.4f}", f"{run['cpu_seconds']:.0f} s"]
        for run in record("demo_iou")["runs"]
    ]
    return markdown(["seed", "steps", "IoU on the held-out third", "processor time"], rows)


#: The record's name -> its table.
TABLES: dict[str, Callable[[], str]] = {
    "parity": parity,
    "importing": importing,
    "coverage_sample": lambda: coverage("coverage_sample"),
    "coverage_pyramids": lambda: coverage("coverage_pyramids"),
    "loading": loading,
    "rivals": rivals,
    "demo_iou": demo_iou,
}


def write_all(folder: Path) -> None:
    """Write every table, and the sentence on its environment, for the pages to include."""
    folder.mkdir(exist_ok=True)
    for name, table in TABLES.items():
        (folder / f"{name}.md").write_text(f"{table()}\n{environment(name)}\n")


def update_readme() -> None:
    """Put the tables where the README has marked their places."""
    path = RESULTS.parents[1] / "README.md"
    pattern = r"(<!-- table: rivals -->\n).*?(<!-- end of table -->)"
    text = re.sub(pattern, rf"\g<1>{rivals()}\g<2>", path.read_text(), flags=re.DOTALL)
    path.write_text(text)


if __name__ == "__main__":
    update_readme()
