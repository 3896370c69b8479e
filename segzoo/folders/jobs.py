"""Pictures and what is written for each: which files, and what became of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from ..files.local import is_there
from .names import Names


@dataclass(frozen=True)
class Job:
    """One picture, and where its results go.

    Args:
        image: The picture.
        target: Folder and name of its results, without an ending: that depends on what the file
            holds.
    """

    image: Path
    target: Path

    def outputs(self, tiled: str | None = None, *, overlays: bool = True) -> Outputs:
        """What is written.

        Args:
            tiled: The ending of a picture that is cut into tiles, else None.
            overlays: Whether others get an overlay.
        """
        name = self.target.name
        overlay = self.target.with_name(f"{name}_overlay.png")
        mask = self.target.with_name(f"{name}{tiled or '.png'}")
        return Outputs(mask, overlay if tiled is None and overlays else None)

    def possible_outputs(self, *, overlays: bool = True) -> tuple[Outputs, Outputs]:
        """What is written for a picture in one piece, and for one with a place on the ground."""
        return self.outputs(overlays=overlays), self.outputs(".tif")


@dataclass(frozen=True)
class Outputs:
    """The files of one picture.

    Args:
        mask: Its result.
        overlay: The picture with its mask laid over it, or None: a picture in tiles gets none.
    """

    mask: Path
    overlay: Path | None

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [path for path in (self.mask, self.overlay) if path is not None]

    def exist(self) -> bool:
        """Whether all are there."""
        return all(map(is_there, self.paths))


@dataclass(frozen=True)
class Prediction:
    """A picture that was done.

    Args:
        image: The picture.
        mask: Its result.
        overlay: See :class:`Outputs`.
        shares: The share of the pixels that each class has, and ``void`` where the model may be
            unsure; without that, of a picture in tiles the share of the known pixels.
        tiling: How the picture was cut, or None where it was not.
        whole: Whether its result is there: of one in parts, others may be missing still.
    """

    image: Path
    mask: Path
    overlay: Path | None
    shares: dict[str, float]
    tiling: dict[str, Any] | None = None
    whole: bool = True


@dataclass(frozen=True)
class Failure:
    """A picture that could not be done, with the reason."""

    image: Path
    error: str


#: What became of a picture.
Outcome = Prediction | Failure
#: Called with each of them.
Done = Callable[[Outcome], None]
#: The ending of the result of a picture that is cut into tiles, else None.
Endings = Callable[[Path], str | None]


def plan_jobs(images: Sequence[Path], out: Path) -> list[Job]:
    """Output names such that no two pictures share one, on any file system.

    >>> for job in plan_jobs([Path("a/x.jpg"), Path("b/X.png")], Path("out")):
    ...     print(job.outputs().mask.name, job.outputs().overlay.name)
    x.png x_overlay.png
    X_2.png X_2_overlay.png

    Args:
        images: The pictures.
        out: The folder of the results.
    """
    names = Names()
    return [Job(image, out / names.take(image.stem)) for image in images]


def check_outputs(
    jobs: Sequence[Job], endings: Endings, *, overlays: bool = True, overwrite: bool
) -> None:
    """Raise before anything is done where a result would replace what should stay.

    Raises:
        ArgumentError: A result would replace one of the pictures, or without ``overwrite`` a file
            that is there already.
    """
    at_risk = []
    for job in jobs:
        possible = job.possible_outputs(overlays=overlays)
        # A picture is opened only where it matters which of its results it gets.
        if any(is_there(path) for outputs in possible for path in outputs.paths):
            at_risk += job.outputs(endings(job.image), overlays=overlays).paths
    check_paths(at_risk, [job.image for job in jobs], overwrite=overwrite)


def check_paths(outputs: Sequence[Path], images: Sequence[Path], *, overwrite: bool) -> None:
    """The same, of files that are known.

    Raises:
        ArgumentError: As there.
    """
    existing = [path for path in outputs if is_there(path)]
    if not existing:  # and what does not exist is no picture
        return
    # Not Path.resolve: of links that go in a circle it raises errors of its own.
    inputs = {os.path.realpath(image) for image in images}
    for path in existing:
        if os.path.realpath(path) in inputs:
            raise ArgumentError(
                f"{path} is one of the pictures to segment and would be replaced by a result. "
                "Choose another folder for -o."
            )
    if not overwrite:
        raise ArgumentError(
            f"{existing[0]} exists already. Choose another folder for -o, or add --skip-existing "
            "to do what is missing, or --overwrite."
        )
