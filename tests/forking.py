"""A server that processes of tests are forked from: it has imported what they need already.

There is one for all tests of a process, whoever asks for it first: starting a process then costs
tens of milliseconds, not seconds.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any

#: Seconds that ranks may take: many times what they need.
_LONGEST = 180


def context() -> Any:
    """Where processes are forked from."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.preloaded"])
    return found


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def on_ranks(
    target: Callable[..., None], *arguments: Any, needs: str = "torch", **environment: str
) -> None:
    """Run a function in two processes that are to it what torchrun starts.

    Args:
        target: Called in both, with the arguments.
        needs: A module that is imported once for both.
        environment: Variables that are set beside torchrun's.

    Raises:
        RuntimeError: One of them failed; standard error says why.
    """
    process = context().Process(target=_ranks, args=(target, arguments, needs, environment))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("A rank failed.")


def _ranks(
    target: Callable[..., None], arguments: Sequence[Any], needs: str, environment: dict[str, str]
) -> None:
    importlib.import_module(needs)
    made, port = multiprocessing.get_context("fork"), str(free_port())
    ranks = [
        made.Process(
            target=_rank,
            args=(target, arguments),
            kwargs={
                **environment,
                "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
                "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": "tests",
                **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in ranks:
        process.start()
    running = list(ranks)
    while running and connection.wait([process.sentinel for process in running], _LONGEST):
        running = [process for process in running if process.is_alive()]
        if any(process.exitcode for process in ranks):
            break
    for process in running:  # they would wait for a rank that is gone
        process.kill()
    sys.exit(bool(running) or any(process.exitcode for process in ranks))


def _rank(target: Callable[..., None], arguments: Sequence[Any], **environment: str) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*arguments)
