"""A server that processes of tests are forked from: it has imported what they need already.

There is one for all tests of a process, whoever asks for it first: starting a process then costs
tens of milliseconds, not seconds.
"""

from __future__ import annotations

import multiprocessing
from typing import Any


def context() -> Any:
    """Where processes are forked from."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.preloaded"])
    return found
