"""What commands share: options, and how facts are printed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import click

from ..checks import printable
from ..registry import BUILT_IN

Command = TypeVar("Command", bound=Callable[..., Any])


#: For help texts.
ARCHITECTURE_NAMES = ", ".join(BUILT_IN.values())


class PartialFailureError(Exception):
    """A part of the work failed; what could be done is done, and the exit code is 1."""


def with_options(command: Command, options: Sequence[Callable[[Any], Any]]) -> Command:
    """A command with options, in the order of ``--help``."""
    for option in reversed(options):
        command = option(command)
    return command


def json_option(command: Command) -> Command:
    """``--json``, for a command that prints facts."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, for other programs to read."
    )(command)


def device_option(command: Command) -> Command:
    """``--device``, for a command that computes."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Where to compute: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.",
    )(command)


#: For a command that takes a model from the Hub.
revision_option = click.option("--revision", help="Branch, tag or commit of the model on the Hub.")


def say(text: str, *, err: bool = False) -> None:
    """Print a line in which names of files may stand, whatever characters they have.

    What a terminal would obey, and halves of characters, are written as escapes.
    """
    click.echo(printable(text), err=err)


@contextlib.contextmanager
def streams_that_take_all() -> Iterator[None]:
    """stdout and stderr with escapes for what their encoding lacks, for as long as this lasts."""
    changed = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            changed.append(stream)
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream in changed:
            with contextlib.suppress(ValueError, OSError):  # closed meanwhile, or full
                stream.reconfigure(errors="strict")


def give_up_stdout() -> None:
    """Let what is left in stdout's buffer go nowhere: at the end Python would fail on it again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_json(value: object) -> None:
    """Print a value as JSON; see :func:`as_json_text`."""
    click.echo(as_json_text(value))


def as_json_text(value: object) -> str:
    """A value as JSON; paths become strings.

    What is none to be seen is escaped as JSON has it, so that a terminal is as safe as a program.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, default=os.fspath)
    # Not by splitlines, which takes characters out that end a line elsewhere than in JSON.
    if all(map(str.isprintable, text.split("\n"))):
        return text
    return json.dumps(value, indent=2, default=os.fspath)


def print_facts(facts: dict[str, str]) -> None:
    """Print names and values in two aligned columns."""
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        click.echo(printable(f"{name:{width}}{value}"))


def print_table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """Print rows in aligned columns; the columns numbered in ``right`` end at one place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if index in right else f"{cell:{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo(printable("  ".join(cells).rstrip()))


def one_line(value: object) -> str:
    """The text of an error with every run of blanks and line breaks as one blank."""
    return printable(" ".join(str(value).split()))


def show_progress(as_json: bool) -> bool:
    """Whether a progress bar is wanted on stderr: only where a person looks at it."""
    return not as_json and sys.stderr.isatty()
