"""A tutorial as a list of texts and cells."""

from __future__ import annotations

import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
OUTPUTS = FOLDER / "outputs"
#: Blocks that run.
LANGUAGES = ("python", "console")

_BLOCK = re.compile(rf"^```({'|'.join(LANGUAGES)})\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SMALLER = re.compile(r'^<!-- smaller: "(.*?)" -> "(.*?)" -->$', re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """A block that runs.

    Attributes:
        language: ``python``, or ``console``: lines that begin with ``$``.
        source: What stands in it.
    """

    language: str
    source: str


@dataclass(frozen=True)
class Tutorial:
    """A page of docs/tutorials.

    Attributes:
        name: Its file's, without the ending.
        parts: Texts and cells as they follow each other.
        smaller: What the page shows -> what tests run in its place, so that they are quick. The
            page says it in comments: ``<!-- smaller: "epochs=40" -> "epochs=1" -->``.
    """

    name: str
    parts: tuple[str | Cell, ...]
    smaller: dict[str, str]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Those parts that run."""
        return tuple(part for part in self.parts if isinstance(part, Cell))


def names() -> tuple[str, ...]:
    """All tutorials."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index"))


def read(name: str) -> Tutorial:
    """The tutorial of that name."""
    return parse(name, (FOLDER / f"{name}.md").read_text())


def parse(name: str, text: str) -> Tutorial:
    """A tutorial from its Markdown."""
    parts: list[str | Cell] = []
    end = 0
    for block in _BLOCK.finditer(text):
        parts += [text[end : block.start()], Cell(block[1], block[2])]
        end = block.end()
    parts.append(text[end:])
    return Tutorial(name, tuple(parts), dict(_SMALLER.findall(text)))


def essence(cell: Cell) -> str:
    """What a record keeps of a cell: neither a formatter's line breaks nor comments count."""
    lines = cell.source.splitlines()
    if cell.language == "python":
        readline = io.StringIO(cell.source).readline
        for token in tokenize.generate_tokens(readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    text = re.sub(r"\s+", "", "".join(lines))
    return f"{cell.language} {re.sub(r',(?=[])}])', '', text)}"


def commands(source: str) -> list[str]:
    """The commands of a ``console`` cell, a line each; a backslash at the end joins lines."""
    joined = source.replace("\\\n", " ")
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]
