"""What a training tells to the trackers of others: TensorBoard, Weights & Biases, MLflow ...

Which there are, and how each is spoken to, is accelerate's. None is used unless it is asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..errors import ArgumentError, MissingPackageError, SegzooError, TrainingError, nearest, warn
from ..packages import load_package, why_broken


@runtime_checkable
class Tracker(Protocol):
    """What is asked of a tracker: the methods of accelerate's ``GeneralTracker``."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the settings of a run."""

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Keep values of a step."""

    def finish(self) -> None:
        """End the run."""


#: The name of a tracker of accelerate, a tracker, or several of them.
LogWith = str | Tracker | Sequence[str | Tracker]


def as_list(log_with: LogWith | None) -> list[str | Tracker]:
    """The trackers that were asked for, checked as far as that takes no package.

    Raises:
        ArgumentError: Something else than a name or a tracker.
    """
    if log_with is None:
        return []
    given = list(log_with) if isinstance(log_with, (list, tuple)) else [log_with]
    for item in given:
        if isinstance(item, type) or not isinstance(item, (str, Tracker)):
            raise ArgumentError(
                "log_with must be names of trackers, or objects with the methods "
                "store_init_configuration, log and finish, as accelerate's GeneralTracker has "
                f"them; got {type(item).__name__}."
            )
    return [item for item in given if isinstance(item, (str, Tracker))]


class Tracking:
    """The trackers of one training, told by its first process.

    Args:
        trackers: Of :func:`as_list`.
        folder: Where those write that want a folder of accelerate: ``training/logs`` of a model's
            folder, which names the run.
        settings: What is trained, and how: each tracker keeps it.

    Raises:
        ArgumentError: A name that accelerate does not know.
        MissingPackageError: accelerate, or the package of a tracker, is not installed.
        TrainingError: A tracker cannot begin: no network, nobody logged in. Those that had begun
            are ended.
    """

    def __init__(
        self, trackers: Sequence[str | Tracker], folder: Path, settings: Mapping[str, Any]
    ) -> None:
        self._trackers: list[Tracker] = []
        self._stack = ExitStack()
        if any(isinstance(item, str) or hasattr(item, "start") for item in trackers):
            self._stack.enter_context(state_of_accelerate())
        for item in trackers:
            try:
                tracker = _made(item, folder) if isinstance(item, str) else item
                self._trackers.append(tracker)
                _begin(tracker, item)
                tracker.store_init_configuration(dict(flat(settings)))
            except BaseException as error:  # whatever others raise, and Ctrl-C at a login
                self.finish()
                if isinstance(error, SegzooError) or not isinstance(error, Exception):
                    raise
                name = item if isinstance(item, str) else type(item).__name__
                raise TrainingError(
                    f"The tracker {name} could not begin: {type(error).__name__}: {error}. Mend "
                    "that, or leave it out of log_with; nothing was trained yet."
                ) from error

    def log(self, row: Mapping[str, Any], class_names: Sequence[str] | None) -> None:
        """Tell the row of an epoch: of ``training/metrics.jsonl``.

        A tracker that fails, for want of a network say, is told nothing more; the training goes on.
        """
        values = dict(numbers(row, class_names))
        for tracker in list(self._trackers):
            try:
                tracker.log(values, step=row["step"])
            except Exception as error:  # whatever others raise
                self._trackers.remove(tracker)
                with suppress(Exception):
                    tracker.finish()
                warn(
                    f"{type(tracker).__name__} failed and is told nothing more: {error}. The "
                    "training goes on; all rows are in training/metrics.jsonl."
                )

    def finish(self) -> None:
        """End all runs, whatever one of them says."""
        for tracker in self._trackers:
            with suppress(Exception):  # what the training ended with is what is told
                tracker.finish()
        self._stack.close()


class EarlierLogs:
    """What trackers wrote of another training: curves of a new one would go on in those.

    They are put aside at first, and gone only when the new training has a row of its own: one that
    fails before leaves them as they were. The first process alone may do that.

    Args:
        place: The folder that trackers write into.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._aside = place.with_name(f".{place.name}-before")

    def put_aside(self) -> None:
        """Make room for logs of a new training."""
        with suppress(OSError):
            self.place.rename(self._aside)

    def put_back(self) -> None:
        """Have them where they were, if they lie aside, in place of what was written meanwhile."""
        if self._aside.exists():
            shutil.rmtree(self.place, ignore_errors=True)
            with suppress(OSError):
                self._aside.rename(self.place)

    def forget(self) -> None:
        """Remove them."""
        shutil.rmtree(self._aside, ignore_errors=True)


@contextmanager
def state_of_accelerate() -> Iterator[None]:
    """Meanwhile accelerate has the state of the program that its trackers' messages ask for.

    Several processes have it from the start. One that is made here ends here: by it an
    ``Accelerator`` that this program makes later would be held to the CPU.
    """
    kind = load_package("accelerate", extra="train").PartialState
    there = object.__new__(kind).initialized  # asked without making one
    state = kind(cpu=True)
    try:
        yield
    finally:
        if not there:
            vars(state).clear()  # all instances share it


def flat(settings: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """``{"recipe": {"crop": (64, 64)}}`` as ``recipe/crop`` and a text, as all trackers take it."""
    for key, value in settings.items():
        inner = f"{name}/{key}" if name else str(key)
        if isinstance(value, Mapping):
            yield from flat(value, inner)
        elif value is None or isinstance(value, (bool, int, float, str)):
            yield inner, "None" if value is None else value
        else:
            yield inner, str(value)


def numbers(
    row: Mapping[str, Any], class_names: Sequence[str] | None
) -> Iterator[tuple[str, float]]:
    """The numbers of a row of an epoch: ``loss``, ``val/miou``, ``val/iou/road`` ..."""
    for name in ("epoch", "loss", "lr", "seconds"):
        yield name, row[name]
    for name, value in row["val"].items():
        if isinstance(value, (int, float)):
            yield f"val/{name}", value
    for index, value in enumerate(row["val"].get("iou") or ()):
        if value is not None:
            yield f"val/iou/{class_names[index] if class_names else index}", value


def _begin(tracker: Tracker, asked: str | Tracker) -> None:
    """Start a tracker of accelerate, named or given: others begin by themselves."""
    # Only the first process comes here. Asked, accelerate would ask its state which that is.
    start = getattr(tracker, "start", None)
    if start is None:
        return
    asks: Any = tracker
    asks.main_process_only = False
    try:
        start()
    except ImportError as error:
        if not isinstance(asked, str):
            raise
        reason = why_broken(asked, error)
        raise MissingPackageError(asked.replace("_", "-"), extra=None, reason=reason) from error


def _made(name: str, folder: Path) -> Tracker:
    """One of accelerate's trackers."""
    tracking = load_package("accelerate.tracking", extra="train")
    known: Mapping[str, Any] = tracking.LOGGER_TYPE_TO_CLASS
    if name not in known:
        raise ArgumentError(
            f"There is no tracker {name!r}.{nearest(name, known)} accelerate knows "
            f"{', '.join(sorted(known))}."
        )
    kind = known[name]
    where = {"logging_dir": str(folder)} if kind.requires_logging_directory else {}
    found: Tracker = kind(folder.resolve().parents[1].name, **where)
    return found
