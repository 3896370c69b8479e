"""One trial in one process: what hangs, crashes or eats all memory ends alone."""

from __future__ import annotations

import multiprocessing
import resource
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

SECONDS, GIBIBYTES = 180, 12

Result = TypeVar("Result")


def in_process(
    trial: Callable[..., Result], *arguments: Any, seconds: float = SECONDS
) -> Result | str:
    """Run a trial in a forked process under the limits: its result, or what went wrong, as text."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(trial, arguments, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return f"over {seconds} s"
        result: Result | str = receiver.recv()
        return result
    except EOFError:
        return f"died (memory limit {GIBIBYTES} GiB?)"
    finally:
        process.kill()
        process.join()


def _child(trial: Callable[..., Any], arguments: tuple[Any, ...], sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (GIBIBYTES * 2**30,) * 2)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        result = trial(*arguments)
    except BaseException as error:
        result = f"{type(error).__name__}: {str(error).strip()[:200]}"
    sender.send(result)
