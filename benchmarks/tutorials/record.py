"""What the cells of a tutorial gave when they were last run, in docs/tutorials/outputs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import environment

from .cells import OUTPUTS, Tutorial, essence
from .execute import Output


@dataclass(frozen=True)
class Shown:
    """What a page shows below a cell.

    Attributes:
        text: What was printed.
        pictures: Names of files in docs/tutorials/outputs.
    """

    text: str
    pictures: tuple[str, ...]


def digest(tutorial: Tutorial) -> str:
    """Of all cells: another one, and the record is of another text."""
    text = "\0".join(map(essence, tutorial.cells))
    return hashlib.sha256(text.encode()).hexdigest()


def write(tutorial: Tutorial, outputs: list[Output], folder: Path = OUTPUTS) -> None:
    """Keep what the cells gave, in place of what they gave before."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"{tutorial.name}-*.png"):
        old.unlink()
    cells = []
    for number, output in enumerate(outputs, 1):
        files = []
        for letter, picture in zip("abcdefgh", output.pictures, strict=False):
            name = f"{tutorial.name}-{number}{letter}.png"
            (folder / name).write_bytes(picture)
            files.append(name)
        cells.append({"text": output.text, "pictures": files})
    record = {
        "cells_sha256": digest(tutorial),
        "cpu_seconds": round(sum(output.seconds for output in outputs), 1),
        "environment": environment(),
        "cells": cells,
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{tutorial.name}.json").write_text(text)


def read(name: str, folder: Path = OUTPUTS) -> dict[str, Any]:
    """The record of a tutorial as it stands in its file."""
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


def shown(tutorial: Tutorial) -> list[Shown]:
    """What stands below each cell.

    Raises:
        ValueError: The record is of other cells.
    """
    record = read(tutorial.name)
    if record["cells_sha256"] != digest(tutorial):
        raise ValueError(
            f"docs/tutorials/{tutorial.name}.md has changed since its cells were run: "
            f"python -m benchmarks.tutorials.run {tutorial.name}"
        )
    return [Shown(cell["text"], tuple(cell["pictures"])) for cell in record["cells"]]
