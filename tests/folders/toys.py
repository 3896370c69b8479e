"""Work for processes that takes no time, ends as names of pictures say, and needs no torch."""

from __future__ import annotations

import os
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from segzoo.errors import DeviceError
from segzoo.folders.jobs import Failure, Job, Prediction


@dataclass(frozen=True)
class Toy:
    """Writes the result of each picture; one named ``kill...`` ends the process.

    Args:
        notes: A folder for notes on which process did what.
        begins: ``well``, ``warning``, ``failing``, or ``killed``.
        seconds: How long each picture takes.
        writes: Whether there is a note on each picture.
    """

    notes: Path
    begins: str = "well"
    seconds: float = 0.0
    writes: bool = True

    def prepare(self, index):
        if self.begins == "failing":
            raise ValueError("there is no model")
        if self.begins == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        (self.notes / f"begun-{os.getpid()}").touch()
        if self.begins == "warning":
            warnings.warn("a wish that cannot be had", stacklevel=2)
        return self

    def run(self, jobs, done):
        for job in jobs:
            if job is not None:
                done(self._one(job))

    def _one(self, job):
        name = job.image.name
        time.sleep(self.seconds)
        note = self.notes / f"seen-{name}"
        if name.startswith("kill-always") or (name.startswith("kill-once") and not note.exists()):
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name.startswith("lose-once") and not note.exists():
            note.touch()
            raise DeviceError("the GPU computes nothing more")
        if name.startswith("bad"):
            return Failure(job.image, "bad")
        if self.writes:
            (self.notes / f"done-{name}").write_text(str(os.getpid()))
        return Prediction(job.image, job.target, None, {})


def jobs(names):
    """A job for each name."""
    return [Job(Path(name), Path("out") / name) for name in names]
