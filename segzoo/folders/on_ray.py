"""Pictures on a cluster of Ray: Ray Data hands them to workers that keep their model.

Ray does a task again whose worker was killed. What fails in our own code it does not, so failures
of pictures come back as a column. Paths travel as JSON: tables of Arrow take no name that is not
UTF-8, and file systems do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..packages import load_package
from .jobs import Done, Failure, Job, Outcome, Prediction
from .task import Task
from .worker import PictureWorker

#: Pictures that a worker is given at a time; so many are done again where it is killed.
_AT_A_TIME = 16


def run(jobs: Iterable[Job], task: Task, done: Done, *, workers: int, expected: str) -> None:
    """Do jobs on the cluster that ``RAY_ADDRESS`` names, or on one of this machine's own.

    All machines must see the pictures, the model and the folder of results by the same paths.

    Args:
        jobs: They may be done again where a worker is killed, so the task must overwrite.
        task: What is done.
        done: Called with what became of each.
        workers: How many workers, each with its own model.
        expected: The fingerprint that the model has in each of them.

    Raises:
        MissingPackageError: Ray is not installed.
    """
    ray = require_ray()
    tables = list(_tables(jobs))
    if not tables:
        return
    begun_here = not ray.is_initialized()
    if begun_here:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        on_gpu = task.device.startswith("cuda") or (
            task.device == "auto" and ray.cluster_resources().get("GPU", 0) >= workers
        )
        with ray.data.DataContext.current(context):
            found = ray.data.from_arrow(tables).map_batches(
                RayWorker,
                fn_constructor_kwargs={"task": task, "expected": expected},
                compute=ray.data.ActorPoolStrategy(size=workers),
                batch_size=_AT_A_TIME,
                num_gpus=1 if on_gpu else 0,
            )
            for row in found.iter_rows():
                done(outcome_of(row["outcome"]))
    finally:
        if begun_here:
            ray.shutdown()


def require_ray() -> Any:
    """Ray with Ray Data.

    Raises:
        MissingPackageError: It is not installed.
    """
    load_package("ray.data", extra="ray")
    return load_package("ray", extra="ray")


def _tables(jobs: Iterable[Job]) -> Iterator[Any]:
    """The jobs as small tables of Arrow, about 200 bytes each."""
    arrow = load_package("pyarrow", extra="ray")
    texts = (json.dumps([os.fspath(job.image), os.fspath(job.target)]) for job in jobs)
    while chunk := list(islice(texts, _AT_A_TIME)):
        yield arrow.table({"job": chunk})


class RayWorker:
    """A :class:`~segzoo.folders.worker.PictureWorker` for tables of JSON."""

    def __init__(self, task: Task, expected: str | None = None) -> None:
        self._worker = PictureWorker(task, expected=expected)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Jobs in the column ``job`` -> what became of them, in ``outcome``, and ``error``."""
        jobs = [Job(*map(Path, json.loads(text))) for text in batch["job"]]
        found = self._worker.outcomes(jobs)
        return {
            "outcome": [text_of(outcome) for outcome in found],
            "error": [item.error if isinstance(item, Failure) else "" for item in found],
        }


def text_of(outcome: Outcome) -> str:
    """As JSON."""
    return json.dumps(vars(outcome), default=os.fspath)


def outcome_of(text: str) -> Outcome:
    """The inverse of :func:`text_of`."""
    values = json.loads(text)
    image = Path(values.pop("image"))
    if "error" in values:
        return Failure(image, **values)
    overlay = values.pop("overlay")
    return Prediction(
        image=image,
        mask=Path(values.pop("mask")),
        overlay=None if overlay is None else Path(overlay),
        **values,
    )
