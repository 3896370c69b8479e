"""An extension of Sphinx: tutorials with what their cells gave, and as notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import cells, pages


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    pages.write_notebooks(Path(app.srcdir) / "generated" / "notebooks")
    app.connect("source-read", fill_in)
    app.add_css_file("tutorials.css")
    return {"parallel_read_safe": True}


def fill_in(app: Any, name: str, content: list[str]) -> None:
    """Give a tutorial its outputs when its file was read."""
    folder, _, tutorial = name.partition("/")
    if folder == "tutorials" and tutorial in cells.names():
        app.env.note_dependency(str(cells.OUTPUTS / f"{tutorial}.json"))
        content[0] = pages.page(cells.parse(tutorial, content[0]))
