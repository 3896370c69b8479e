"""Processes that work for another one: they end with it."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process when the one that started it ends, however it ends."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    # A parent's number would be that of a server where processes are not forked.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
