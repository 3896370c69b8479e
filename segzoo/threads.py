"""Threads that read, write and convert, and leave computing in parallel to the one that computes.

Each thread that computes in parallel gets helpers of its own from OpenMP, and keeps them. Once all
together are more than the processors, those that wait for each other fall asleep at every step, and
waking them takes longer than many a step (benchmarks/thread_helpers.py).
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

#: torch's number of threads is the process's while a thread sets its own.
_SETTING = threading.Lock()


def compute_alone() -> None:
    """From now on the thread that calls this computes without helpers; others are as they were.

    Nothing happens where torch is built without OpenMP: its own threads are those of all.
    """
    with _SETTING:
        # Within the lock: to be told of the backend, torch looks up the number, too.
        if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
            return
        # This also makes torch look the number up now: it would later, and take it for this thread.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        # Not only this thread's but what new ones begin with: set again, from another thread.
        again = threading.Thread(target=torch.set_num_threads, args=(threads,))
        try:
            again.start()
        except RuntimeError:  # the system has no thread left: then it computes as it did
            torch.set_num_threads(threads)
            return
        again.join()


def helpers(count: int, name: str) -> ThreadPoolExecutor:
    """So many threads that :func:`compute_alone`.

    They are there when this returns: a thread that begins to compute while another one is being
    set up could be taken for that one.
    """
    pool = ThreadPoolExecutor(count, name, initializer=compute_alone)
    all_there = threading.Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(all_there.wait)
    except RuntimeError:  # no thread left: those that wait would wait for ever
        all_there.abort()
        pool.shutdown()
        raise
    all_there.wait()
    return pool
