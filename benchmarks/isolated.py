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
    trial: Callable[..., Result],
    *arguments: Any,
    seconds: float = SECONDS,
    gibibytes: int = GIBIBYTES,
    threads: int = 1,
) -> Result | str:
    """Run a trial in a forked process under the limits: its result, or what went wrong, as text."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(trial, arguments, sender, gibibytes, threads))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return f"over {seconds} s"
        result: Result | str = receiver.recv()
        return result
    except EOFError:
        return f"died (memory limit {gibibytes} GiB?)"
    finally:
        process.kill()
        process.join()


def _child(
    trial: Callable[..., Any],
    arguments: tuple[Any, ...],
    sender: Connection,
    gibibytes: int,
    threads: int,
) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (gibibytes * 2**30,) * 2)
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    try:
        result = trial(*arguments)
    except BaseException as error:
        result = f"{type(error).__name__}: {str(error).strip()[:200]}"
    sender.send(result)
