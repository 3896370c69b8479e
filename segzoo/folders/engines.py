"""Who does the jobs: this process, others on this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Iterable

from ..prediction.masks import Segmenter
from .child import Segmenting
from .jobs import Done, Job
from .pipeline import Pipeline
from .pool import WorkerPool
from .task import Task


def do_here(
    jobs: Iterable[Job], model: Segmenter, task: Task, done: Done, *, alone: bool = False
) -> None:
    """In this process, see :class:`segzoo.folders.pipeline.Pipeline`."""
    Pipeline(model, task, alone=alone).run(jobs, done)


def do_in_processes(
    jobs: Iterable[Job], task: Task, done: Done, *, workers: int, expected: str
) -> None:
    """In processes of this machine, see :class:`segzoo.folders.pool.WorkerPool`.

    Args:
        jobs: They may be done again where a worker is killed, so the task must overwrite.
        task: What is done.
        done: Called with what became of each.
        workers: How many processes.
        expected: The fingerprint that the model has in each of them.
    """
    held = 2 * task.batch_size + 3  # what is read ahead, and a batch that is computed
    WorkerPool(Segmenting(task, expected, workers), workers, held=held).run(jobs, done)


def do_on_ray(jobs: Iterable[Job], task: Task, done: Done, *, workers: int, expected: str) -> None:
    """On a cluster, see :mod:`segzoo.folders.on_ray`; arguments as for processes."""
    from .on_ray import run

    run(jobs, task, done, workers=workers, expected=expected)
