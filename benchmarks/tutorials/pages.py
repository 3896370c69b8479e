"""Pages and notebooks: a tutorial with what its cells gave below them."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from . import record
from .cells import FOLDER, OUTPUTS, Cell, Tutorial, commands, names, read
from .record import Shown


def write_notebooks(folder: Path) -> None:
    """Write ``NAME.ipynb`` of each tutorial, with outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names():
        path = folder / f"{name}.ipynb"
        text = json.dumps(notebook(read(name)), indent=1, ensure_ascii=False) + "\n"
        if not path.exists() or path.read_text() != text:  # Sphinx copies again what is newer
            path.write_text(text)


def page(tutorial: Tutorial) -> str:
    """The page as Sphinx gets it: outputs below cells, the notebook to download at the top."""
    outputs = iter(record.shown(tutorial))
    text = ""
    for part in tutorial.parts:
        if isinstance(part, Cell):
            text += f"```{part.language}\n{part.source}```\n{_below(tutorial, next(outputs))}"
        else:
            text += part
    title, _, rest = text.partition("\n\n")
    download = (
        f"{{download}}`Download this page as a notebook "
        f"<../generated/notebooks/{tutorial.name}.ipynb>`"
    )
    return f"{title}\n\n{download}\n\n{rest}"


def _below(tutorial: Tutorial, output: Shown) -> str:
    text = (
        f"\n```{{code-block}} text\n:class: output\n\n{output.text}\n```\n" if output.text else ""
    )
    for picture in output.pictures:
        text += f"\n![What the cell above drew](outputs/{picture})\n"
    return text


def notebook(tutorial: Tutorial) -> dict[str, Any]:
    """The tutorial as a Jupyter notebook, format 4.5."""
    outputs = iter(record.shown(tutorial))
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(tutorial.parts):
        name = f"cell-{number}"
        if isinstance(part, Cell):
            source = part.source
            if part.language == "console":
                source = "\n".join(f"!{command}" for command in commands(part.source))
            cells.append(_code_cell(name, source.rstrip("\n"), next(outputs)))
        elif _alone(part):
            cells.append(_text_cell(name, _alone(part)))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "cells": cells,
    }


def _alone(text: str) -> str:
    """Text that stands for itself, outside of the site: without its comments, roles and links."""
    text = re.sub(r"<!--.*?-->\n*", "", text, flags=re.DOTALL)
    text = re.sub(r"\{[\w:]+\}(`[^`]*`)", r"\1", text)
    return re.sub(r"(?<!!)\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", text).strip("\n")


def _text_cell(name: str, text: str) -> dict[str, Any]:
    """A cell of Markdown that brings its pictures along."""
    attached = {}
    for place in re.findall(r"!\[[^]]*\]\(([^):]+)\)", text):
        picture = (FOLDER / place).read_bytes()
        attached[Path(place).name] = {"image/png": base64.b64encode(picture).decode()}
        text = text.replace(f"({place})", f"(attachment:{Path(place).name})")
    cell: dict[str, Any] = {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}
    return {**cell, "attachments": attached} if attached else cell


def _code_cell(name: str, source: str, output: Shown) -> dict[str, Any]:
    given: list[dict[str, Any]] = []
    if output.text:
        given.append({"output_type": "stream", "name": "stdout", "text": output.text + "\n"})
    for picture in output.pictures:
        data = base64.b64encode((OUTPUTS / picture).read_bytes()).decode()
        given.append({"output_type": "display_data", "metadata": {}, "data": {"image/png": data}})
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {},
        "execution_count": None,
        "source": source,
        "outputs": given,
    }
