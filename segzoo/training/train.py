"""``segzoo.train``: a model and data in, the best model in a folder out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import checks
from ..architectures.base import SegmentationModel
from ..data.dataset import SegmentationData
from ..data.splits import DataSplits
from ..files.local import path_of
from ..storage.pretrained import check_rebuilds
from .features import DEFAULT_BYTES, check_kept
from .figures import require_matplotlib
from .folder import TrainingFolder
from .identity import PLACES, description, warn_of_versions
from .learner import Settled
from .lora import plain
from .objective import check_losses
from .precision import chosen
from .processes import Processes
from .recipe import Recipe
from .run import Run, best_weights
from .score_values import Scores
from .splits import as_splits
from .spreading import from_first
from .state import check_same
from .teacher import Teacher
from .tracking import EarlierLogs, LogWith, Tracker, Tracking, as_list

#: Seconds after which the state is saved within an epoch.
SAVE_SECONDS = 300.0


@dataclass(frozen=True)
class TrainingResult:
    """What :func:`segzoo.train` gives.

    Attributes:
        model: The model that was given, with the weights of the best epoch, in eval mode; of one
            with LoRA a plain one.
        scores: Of that model on the validation data.
        test: Of that model on the test data, where there are any.
        out: Its folder.
        epochs: How many there were, with those of a frozen encoder.
        best_epoch: The epoch that was best, from 1.
        history: A row for each epoch, as in ``training/metrics.jsonl``.
        was_finished: Whether the folder held the finished training already.
    """

    model: SegmentationModel
    scores: Scores
    out: Path
    epochs: int
    best_epoch: int
    history: tuple[Mapping[str, Any], ...]
    test: Scores | None = None
    was_finished: bool = False


def train(
    model: SegmentationModel,
    data: DataSplits | str | os.PathLike[str] | tuple[SegmentationData, SegmentationData],
    *,
    out: str | os.PathLike[str],
    recipe: Recipe | None = None,
    ignore_index: int | None = None,
    device: str = "auto",
    workers: int = 0,
    save_seconds: float = SAVE_SECONDS,
    feature_bytes: int = DEFAULT_BYTES,
    feature_folder: str | os.PathLike[str] | None = None,
    restart: bool = False,
    progress: bool = False,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
    log_with: LogWith | None = None,
) -> TrainingResult:
    """Train a model, keep the best of it in a folder, and go on there if it was stopped.

    The same call on the same folder goes on where the last one ended, however it ended, and on the
    same machine comes to the same weights, bit for bit: order and augmentation of the images are
    functions of the recipe's seed and the epoch. The global random state is left as it was.

    Under ``torchrun`` (or ``accelerate launch``) all processes train one model; each takes
    ``batch_size`` images in a step, and the loss is that of all their images together.

    Args:
        model: Trained in place; moved to the device.
        data: What :func:`segzoo.open_data` gives, a folder for it with ``train`` and ``val``, or
            two datasets of (image, mask): to train on and to judge by.
        out: Folder for the model and for ``training/``, what is known of its training.
        recipe: How; None for ``segzoo.Recipe()``.
        ignore_index: Void in masks, where ``data`` does not say it.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        workers: Processes that read images for each process that trains; 0 for none.
        save_seconds: How old a state may become within an epoch; it is saved after each anyway.
        feature_bytes: How much the features may take that ``keep_features`` of the recipe keeps, of
            each process.
        feature_folder: Where they are kept, for longer than this call; None for the memory.
        restart: Begin anew where the folder holds a training. Its scores are gone when the new one
            has taken its first step, its model when the new one has one.
        progress: Show a bar on stderr.
        on_epoch: Called with the row of each epoch, as in ``training/metrics.jsonl``, by the first
            process only: to print it, say.
        log_with: Trackers that are told the recipe and each row: names that accelerate knows
            (``"tensorboard"``, ``"wandb"``, ``"mlflow"``, ...), or objects of its
            ``GeneralTracker``. TensorBoard's files are in ``training/logs``.

    Returns:
        The model, its scores, and how it came to them.

    Raises:
        ArgumentError: A value out of its range, or data of other classes or bands than the model.
        DataError: The data cannot be learned from.
        TrainingError: The folder holds something else, or a training with another recipe, data or
            number of processes; or the loss is not finite.
        StorageError: Something could not be written or read; what was saved before still stands.
        MissingPackageError: matplotlib is not installed, or, for several processes, accelerate; or
            the package of a tracker.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
        SystemExit: SIGTERM, after the state was saved; the code is 143.
    """
    recipe = Recipe() if recipe is None else recipe
    trackers = as_list(log_with)
    checks.integer("workers", workers, minimum=0, maximum=1024)
    checks.number("save_seconds", save_seconds, minimum=0, maximum=1e9)
    checks.integer("feature_bytes", feature_bytes, minimum=0, maximum=2**60)
    kept = None if feature_folder is None else path_of("feature_folder", feature_folder)
    splits = as_splits(data, model, ignore_index)
    check_losses(model, recipe)
    check_kept(model, recipe)
    check_rebuilds(plain(model))
    teacher = Teacher.of(recipe, model)
    require_matplotlib()
    processes = Processes(device)
    folder = TrainingFolder(out)
    processes.check(recipe)
    look = partial(folder.look, restart=restart)
    saved = from_first(processes, look, whole=recipe.sharding is None)
    precision = precision_of(recipe, processes, saved)
    key = None if teacher is None else teacher.key
    begun = description(model, recipe, splits, processes, precision, teacher=key)
    if saved is not None:
        known = {"recipe": asdict(Recipe())}
        check_same(saved["begun"], begun, folder.out, absent=known, passed=PLACES)
        warn_of_versions(saved["versions"])
        if saved["finished"]:
            model = best_weights(model, folder, processes)
            return result(model, saved, folder, was_finished=True)
    new = saved is None or not saved["history"]
    cuda = [processes.device] if processes.device.type == "cuda" else []
    with (
        tracked(trackers, processes, folder, begun, splits.class_names, new=new) as track,
        torch.cuda.device(processes.device) if cuda else nullcontext(),
        torch.random.fork_rng(devices=cuda),
    ):
        torch.manual_seed(recipe.seed + processes.index)
        model.to(processes.device)
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        run = Run(model, recipe, splits, processes, folder, workers, teacher=teacher)
        run.feature_bytes = feature_bytes
        run.feature_folder = kept
        settled = run.settle(precision) if saved is None else Settled.from_state(saved["settled"])
        loop = run.loop(settled, begun, save_seconds=save_seconds, progress=progress)
        if on_epoch is not None and processes.first:
            loop.on_epoch = on_epoch
        if saved is not None:
            loop.resume(saved)
        loop.track = track
        loop.run()
        state = run.finish(loop, begun, settled)
    return result(run.model, state, folder, was_finished=False)


def precision_of(recipe: Recipe, processes: Processes, saved: Mapping[str, Any] | None) -> str:
    """One for all processes; ``auto`` stays what it was when the training began."""
    if saved is not None and recipe.precision == "auto":
        return str(saved["settled"]["precision"])
    return str(processes.from_first(partial(chosen, recipe.precision, processes.device)))


@contextmanager
def tracked(
    trackers: Sequence[str | Tracker],
    processes: Processes,
    folder: TrainingFolder,
    settings: Mapping[str, Any],
    class_names: Sequence[str] | None,
    *,
    new: bool,
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Trackers that the first process tells, for a while; what each row is told to.

    Args:
        new: No row was told yet: what is in their folder is of another training.
    """
    opened: list[Tracking] = []
    earlier = EarlierLogs(folder.inside / "logs")
    try:
        if processes.first:
            earlier.put_back()  # a call that was killed before its first row has left them aside
            if new:
                earlier.put_aside()
        if trackers:  # what cannot be opened is told in all processes
            processes.from_first(lambda: opened.append(Tracking(trackers, earlier.place, settings)))

        def tell(row: Mapping[str, Any]) -> None:
            for tracking in opened:
                tracking.log(row, class_names)
            if processes.first:
                earlier.forget()

        yield tell
    finally:
        for tracking in opened:
            tracking.finish()
        if processes.first:
            earlier.put_back()


def result(
    model: SegmentationModel,
    state: Mapping[str, Any],
    folder: TrainingFolder,
    *,
    was_finished: bool,
) -> TrainingResult:
    """What a finished state says."""
    return TrainingResult(
        model=model,
        scores=Scores.from_json(state["scores"]),
        out=folder.out,
        epochs=len(state["history"]),
        best_epoch=int(state["best"]["epoch"]),
        history=tuple(state["history"]),
        test=None if state["test"] is None else Scores.from_json(state["test"]),
        was_finished=was_finished,
    )
