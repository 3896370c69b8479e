"""A model and what it does with pictures: the same in any process, on any machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..architectures.base import from_pretrained
from ..devices import choose_device
from ..errors import ArgumentError
from ..inference.export.exported import open_as_told
from ..prediction.masks import Segmenter
from ..prediction.pixel_model import fingerprint, pixel_model
from .jobs import Done, Failure, Job, Outcome
from .pipeline import Pipeline
from .task import Task


def load(task: Task) -> Any:
    """A saved model, or an exported file where that is what there is.

    Raises:
        SegzooError: It cannot be loaded.
    """
    if Path(task.model).suffix.lower() in (".onnx", ".xml") and Path(task.model).is_file():
        return open_as_told(task.model, device=task.device, revision=task.revision)
    return from_pretrained(task.model, revision=task.revision).to(choose_device(task.device))


def fingerprint_of(model: Segmenter) -> str:
    """A hash of all that a model's masks depend on."""
    with pixel_model(model) as ready:
        return fingerprint(ready)


class PictureWorker:
    """Segments pictures that stand in tables, for Spark, Ray and the like.

    ::

        worker = PictureWorker(Task("my-model"))
        worker({"image": ["scans/a.jpg"], "target": ["masks/a"]})["mask"]  # ["masks/a.png"]

    Args:
        task: What is done, by which model; it is loaded here.
        expected: The fingerprint that the model must have; None for any.

    Attributes:
        fingerprint: A hash of all that its masks depend on.

    Raises:
        SegzooError: The model cannot be loaded, or is another one.
    """

    def __init__(self, task: Task, *, expected: str | None = None) -> None:
        self.task = task
        self._model = load(task)
        self.fingerprint = fingerprint_of(self._model)
        if expected not in (None, self.fingerprint):
            raise ArgumentError(
                f"The model {task.model} is another one here (its fingerprint is "
                f"{self.fingerprint}, not {expected}). Give a folder that all processes see, or a "
                "commit as revision."
            )

    def run(self, jobs: Iterable[Job | None], done: Done) -> None:
        """See :meth:`segzoo.folders.pipeline.Pipeline.run`."""
        Pipeline(self._model, self.task).run(jobs, done)

    def __call__(self, table: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
        """Segment the pictures of a table; errors are a column, and stop nothing.

        Args:
            table: Columns ``image``, the paths of pictures, and ``target``, folder and name of
                their results without an ending. A dictionary of lists, or a frame of pandas.

        Returns:
            Columns ``image``, ``mask`` (a path, or None), ``error`` (a text, or None) and
            ``shares`` (of the classes, as JSON, or None); rows in the order of the pictures.
        """
        images, targets = list(table["image"]), list(table["target"])
        jobs = [Job(Path(i), Path(t)) for i, t in zip(images, targets, strict=True)]
        rows = [_row(outcome) for outcome in self.outcomes(jobs)]
        return {
            "image": images,
            **{name: [row[name] for row in rows] for name in ("mask", "error", "shares")},
        }

    def outcomes(self, jobs: Sequence[Job]) -> list[Outcome]:
        """What became of each job, in their order."""
        found: dict[int, Outcome] = {}
        waiting = dict(enumerate(jobs))
        while waiting:  # once, unless a picture is there for two targets
            places = {job.image: place for place, job in waiting.items()}
            now = [waiting.pop(place) for place in places.values()]
            outcomes: list[Outcome] = []
            self.run(now, outcomes.append)
            found.update({places[outcome.image]: outcome for outcome in outcomes})
        return [found[place] for place in range(len(jobs))]


def _row(outcome: Outcome) -> dict[str, str | None]:
    if isinstance(outcome, Failure):
        return {"mask": None, "error": outcome.error, "shares": None}
    return {"mask": str(outcome.mask), "error": None, "shares": json.dumps(outcome.shares)}
