"""A page for each architecture, made of the code, the guide and the committed records.

Nothing is written down twice: what it is, its paper and its figure stand at the head of its file,
when to choose it in the table of docs/architectures.md, what it costs in the records; the drawing
is drawn.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.architectures import CLASSES, ENCODERS, SIZE
from benchmarks.parity.tables import costs_of, speeds_of
from benchmarks.records import markdown
from segzoo.architectures.base import create_model
from segzoo.architectures.diagram import diagram
from segzoo.encoders import build_on_meta
from segzoo.errors import SegzooError
from segzoo.registry import ARCHITECTURES, BUILT_IN

GUIDE = Path(__file__).parents[1] / "docs" / "architectures.md"


def write_pages(folder: Path) -> None:
    """Write the page of each architecture, and remove those of others."""
    folder.mkdir(exist_ok=True)
    pages = {f"{module}.md": page(name) for name, module in BUILT_IN.items()}
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for file, text in pages.items():
        path = folder / file
        if not path.exists() or path.read_text() != text:  # Sphinx reads again what is newer
            path.write_text(text)


def page(name: str) -> str:
    """The page of an architecture, given by the name of its class, as Markdown."""
    encoder, drawn = drawing(name)
    described = description(name)
    choices = [f"- {want}: {take}" for want, take in advice(GUIDE.read_text(), name)]
    parts = [f"# {name}", described]
    if choices:
        parts += ["## When to choose it", "\n".join(choices)]
    parts += [
        "## The model",
        f'```python\nmodel = segzoo.{name}("{encoder}", classes=3)\n```',
        f"```text\n{drawn}\n```",
        "Read the left column downwards and the right one upwards; an arrow is a connection from "
        "a map of the encoder to a step of the decoder.",
    ]
    if costs := costs_of(name):
        parts += ["## What it costs", cost_table(name, costs)]
    parts.append(
        f"All arguments: {{py:class}}`segzoo.{name}`. All architectures side by side: "
        "{doc}`/architectures`."
    )
    return "\n\n".join(parts) + "\n"


def description(name: str) -> str:
    """What stands at the head of the architecture's file, as Markdown."""
    text = inspect.getdoc(sys.modules[ARCHITECTURES[BUILT_IN[name]].__module__]) or ""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)  # the roles of reStructuredText
    return text.replace("``", "`")


def advice(guide: str, name: str) -> list[tuple[str, str]]:
    """Rows of the guide's first table that name the architecture: what one wants, what to take."""
    _, _, after = guide.partition("| You want | Take |")
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", after.partition("\n\n")[0], re.MULTILINE)
    return [(want, take) for want, take in rows if f"`{name}`" in take]


def drawing(name: str) -> tuple[str, str]:
    """The first of the encoders that the architecture takes, and the model on it, drawn."""
    for encoder in ENCODERS:
        try:
            model = build_on_meta(lambda e=encoder: create_model(BUILT_IN[name], e, classes=3))
        except SegzooError:
            if encoder == ENCODERS[-1]:
                raise
        else:
            return encoder, diagram(model)
    raise AssertionError("there are encoders")


def cost_table(name: str, costs: dict[str, dict[str, Any]]) -> str:
    """Weights, operations and, where they were measured, images a second, by encoder."""
    speeds = speeds_of(name)
    head = ["encoder", "parameters", "GFLOPs"]
    head += ["images/s on a CPU", "with `segzoo.optimize`"] if speeds else []
    rows = []
    for encoder in (encoder for encoder in ENCODERS if encoder in costs):
        row = [f"`{encoder}`", f"{costs[encoder]['parameters_m']} M", costs[encoder]["gflops"]]
        if speeds:
            ways = speeds.get(encoder, {})
            row += [ways.get(way, "not measured") for way in ("eager", "optimized")]
        rows.append(row)
    return markdown(head, rows) + f"\nOf one image of {SIZE}x{SIZE}, with {CLASSES} classes."
