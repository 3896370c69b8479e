"""Paths that a person gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class GivenPath(click.Path):
    """A path as ``pathlib`` has it; an empty text is none, though ``pathlib`` makes ``.`` of it.

    It comes from a variable of the shell that is not set: ``-o "$OUT"``.
    """

    def __init__(self, *, exists: bool = False, dir_okay: bool = True) -> None:
        super().__init__(exists=exists, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or a refusal."""
        if value == "":
            self.fail("an empty text is no path; '.' is the folder that you are in", param, ctx)
        return super().convert(value, param, ctx)
