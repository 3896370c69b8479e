"""Cells run in one process, one after the other, as a notebook's do."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segzoo.cli import main

from .cells import Tutorial, commands

#: Colours and bars that are meant for a terminal.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Output:
    """What a cell gave.

    Attributes:
        text: What it printed, and the value of its last line.
        pictures: What it drew, as PNG.
        seconds: Processor time of this process.
    """

    text: str
    pictures: tuple[bytes, ...]
    seconds: float


def execute(
    tutorial: Tutorial,
    folder: Path,
    *,
    change: Callable[[str], str] = lambda source: source,
    torchrun: bool = True,
) -> list[Output]:
    """Run all cells of a tutorial.

    Args:
        tutorial: Its cells share their names.
        folder: The working directory meanwhile.
        change: What is run in place of a source.
        torchrun: Start the processes of ``torchrun``; else the command runs in this one alone.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    outputs = []
    with _inside(folder), torch.random.fork_rng(), warnings.catch_warnings():
        # Tutorials are run where no window can be opened.
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
        for cell in tutorial.cells:
            source = change(cell.source)
            began = time.process_time()
            with _printed() as printed:
                if cell.language == "python":
                    _python(source, names, tutorial.name)
                else:
                    _console(source, torchrun=torchrun)
            pictures = tuple(_pictures())
            seconds = time.process_time() - began
            outputs.append(Output(_plain(printed.getvalue()), pictures, seconds))
    return outputs


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """As ``contextlib.chdir``, which Python 3.10 has not."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _printed() -> Iterator[io.StringIO]:
    """What goes to stdout. Warnings and bars go to stderr, and are not kept."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        yield text


def _python(source: str, names: dict[str, Any], title: str) -> None:
    """Run a cell; the value of its last line is shown, where it has one."""
    tree = ast.parse(source, title)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, title, "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), title, "eval"), names)
        if value is not None:
            print(repr(value))


def _console(source: str, *, torchrun: bool) -> None:
    """Run the commands of a cell: segzoo's in this process, others in processes of their own."""
    behind = []
    for command in commands(source):
        waits = command.endswith("&")
        words = shlex.split(command.rstrip("& "), comments=True)
        if words[0] == "torchrun" and not torchrun:
            if not waits:  # the process of another machine has nothing to do here
                words = ["segzoo", *words[words.index("segzoo") + 1 :]]
            else:
                continue
        if words[0] == "segzoo":
            code = main(words[1:])
            if code != 0:
                raise RuntimeError(f"{command!r} ended with {code}.")
            continue
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=_environment())
        if waits:
            behind.append((command, process))
        else:
            _wait(command, process)
    for command, process in behind:
        _wait(command, process)


def _wait(command: str, process: subprocess.Popen[str]) -> None:
    text, _ = process.communicate()
    print(text, end="")
    if process.returncode:
        raise RuntimeError(f"{command!r} ended with {process.returncode}.")


def _environment() -> dict[str, str]:
    """With this Python's commands before others."""
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([here, os.environ.get("PATH", "")])}


def _pictures() -> Iterator[bytes]:
    """The figures that are open, which are closed then."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in pyplot.get_fignums():
        file = io.BytesIO()
        # Without the version of matplotlib in it, equal figures are equal files.
        pyplot.figure(number).savefig(file, format="png", dpi=80, metadata={"Software": None})
        yield file.getvalue()
    pyplot.close("all")


def _plain(text: str) -> str:
    """Without what only a terminal understands; of lines written over each other the last."""
    lines = [line.rpartition("\r")[2].rstrip() for line in _CONTROL.sub("", text).splitlines()]
    return "\n".join(lines).strip("\n")
