"""``segzoo predict`` in processes of its own that are killed and started again.

The processes are forked from a server that has imported torch already, so that starting one costs
tens of milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from segzoo.cli import main
from segzoo.folders import pool

from .. import forking

#: Seconds that a run may take: hundreds of times what it needs.
_LONGEST = 120


def run(arguments: list[str], output: str) -> None:
    """One run, with its output in a file."""
    os.setpgrp()  # its workers die with it
    torch.set_num_threads(1)
    pool.METHOD = "fork"  # workers that start at once
    with (
        Path(output).open("a") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        code = main(arguments)
        file.flush()
    os._exit(code)


def start(*arguments: Any, output: Path) -> Any:
    """Begin a run."""
    texts = ["predict", *(str(argument) for argument in arguments)]
    process = forking.context().Process(target=run, args=(texts, str(output)))
    process.start()
    return process


def finish(process: Any) -> int:
    """Wait for the end of a run; its exit code."""
    process.join(_LONGEST)
    assert process.exitcode is not None
    return int(process.exitcode)


def wait_for(condition: Callable[[], bool], process: Any) -> bool:
    """Wait until something is so, or the run has ended; whether it is so."""
    deadline = time.monotonic() + _LONGEST
    while not condition() and process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def kill(process: Any) -> None:
    """What cannot be caught, to a run and all of its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
