"""``segzoo.train``: a model and data in, the best model in a folder out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from .. import checks
from .._version import __version__
from ..architectures.base import SegmentationModel, from_pretrained
from ..data.dataset import SegmentationData
from ..data.splits import DataSplits, names_of
from ..errors import warn
from ..storage.pretrained import check_rebuilds
from . import loaders
from .finding import PLAIN_BATCH, find_batch_size, find_learning_rate
from .folder import TrainingFolder
from .learner import Batch, Learner, Settled
from .loop import Loop
from .order import Order
from .precision import chosen
from .processes import Processes
from .recipe import Recipe
from .scores import Scores
from .splits import as_splits, balanced
from .state import check_same
from .validate import Validator

#: Seconds after which the state is saved within an epoch.
SAVE_SECONDS = 300.0


@dataclass(frozen=True)
class TrainingResult:
    """What :func:`segzoo.train` gives.

    Attributes:
        model: The model that was given, with the weights of the best epoch, in eval mode.
        scores: Of that model on the validation data.
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
    restart: bool = False,
    progress: bool = False,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
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
        restart: Begin anew where the folder holds a training.
        progress: Show a bar on stderr.
        on_epoch: Called with the row of each epoch, as in ``training/metrics.jsonl``, by the first
            process only: to print it, or to send it to a tracker.

    Returns:
        The model, its scores, and how it came to them.

    Raises:
        ArgumentError: A value out of its range, or data of other classes or bands than the model.
        DataError: The data cannot be learned from.
        TrainingError: The folder holds something else, or a training with another recipe, data or
            number of processes; or the loss is not finite.
        StorageError: Something could not be written or read; what was saved before still stands.
        MissingPackageError: There are several processes, and accelerate is not installed.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
        SystemExit: SIGTERM, after the state was saved; the code is 143.
    """
    recipe = Recipe() if recipe is None else recipe
    checks.integer("workers", workers, minimum=0, maximum=1024)
    checks.number("save_seconds", save_seconds, minimum=0, maximum=1e9)
    splits = as_splits(data, model, ignore_index)
    check_rebuilds(model)
    processes = Processes(device)
    folder = TrainingFolder(out)
    saved = processes.from_first(lambda: folder.look(restart=restart))
    precision = chosen(recipe.precision, processes.device)
    begun = description(model, recipe, splits, processes, precision)
    if saved is not None:
        check_same(saved["begun"], begun, folder.out)
        _same_versions(saved["versions"])
        if saved["finished"]:
            best_weights(model, folder, processes)
            return result(model, saved, folder, was_finished=True)
    cuda = [processes.device] if processes.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(recipe.seed + processes.index)
        model.to(processes.device)
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        run = _Run(model, recipe, splits, processes, folder, workers)
        settled = run.settle(precision) if saved is None else _settled(saved["settled"])
        loop = run.loop(settled, begun, save_seconds=save_seconds, progress=progress)
        if on_epoch is not None and processes.first:
            loop.on_epoch = on_epoch
        if saved is not None:
            loop.resume(saved)
        loop.run()
        return run.finish(loop, begun, settled)


class _Run:
    """One training, put together."""

    def __init__(
        self,
        model: SegmentationModel,
        recipe: Recipe,
        splits: DataSplits,
        processes: Processes,
        folder: TrainingFolder,
        workers: int,
    ) -> None:
        self.model, self.recipe, self.splits = model, recipe, splits
        self.processes, self.folder, self.workers = processes, folder, workers

    def settle(self, precision: str) -> Settled:
        """Find what the recipe leaves open, and write down recipe and data."""
        recipe, first = self.recipe, self.processes.first
        if first:
            self.folder.make()
            self.folder.write_text("recipe.json", recipe.to_json())
            self.folder.write_json("data.json", dict(self.splits.description))
        weights = recipe.class_weights
        if isinstance(weights, str):
            weights = self.processes.from_first(lambda: balanced(self.splits))
        settled = Settled(PLAIN_BATCH, 1e-3, precision, weights)
        batch_size = recipe.batch_size
        if isinstance(batch_size, str):
            batch_size = find_batch_size(
                self.model,
                recipe,
                settled,
                self.processes,
                next(self._batches(Order(len(self.splits.train), 1), (0, 0), workers=0)),
                most=len(self.splits.train),
                ignore_index=self.splits.ignore_index,
            )
        settled = replace(settled, batch_size=batch_size)
        rate = recipe.learning_rate
        if isinstance(rate, str):
            rate, curve = find_learning_rate(
                self.model,
                recipe,
                settled,
                self.processes,
                self._batches(self._order(settled), (0, 0), epochs=10**6),
                ignore_index=self.splits.ignore_index,
            )
            if first:
                self.folder.write_json("learning_rate.json", {"found": rate, "curve": curve})
        return replace(settled, learning_rate=rate)

    def loop(
        self, settled: Settled, begun: Mapping[str, Any], *, save_seconds: float, progress: bool
    ) -> Loop:
        """The loop, at its beginning."""
        order = self._order(settled)
        ignore_index = self.splits.ignore_index
        return Loop(
            Learner(self.model, self.recipe, settled, self.processes, ignore_index=ignore_index),
            order,
            batches=lambda start: self._batches(order, start),
            validate=self._validator(settled),
            folder=self.folder,
            names=lambda index: names_of(self.splits.train)[index],
            head={"begun": begun, "settled": asdict(settled), "versions": versions()},
            save_seconds=save_seconds,
            progress=progress,
        )

    def finish(self, loop: Loop, begun: Mapping[str, Any], settled: Settled) -> TrainingResult:
        """Judge the best once more, fully, and write down that nothing is left to do."""
        best_weights(self.model, self.folder, self.processes)
        scores = loop.validate(self.model, fully=True)
        state: dict[str, Any] = {
            "begun": begun,
            "settled": asdict(settled),
            "versions": versions(),
            "finished": True,
            "history": loop.done.history,
            "best": loop.done.best,
            "scores": scores.to_json(),
        }
        if self.processes.first:
            found = {"epoch": state["best"]["epoch"], "val": state["scores"]}
            self.folder.write_json("metrics.json", found)
            self.folder.write_state(state)
        return result(self.model, state, self.folder, was_finished=False)

    def _order(self, settled: Settled) -> Order:
        images, count = len(self.splits.train), self.processes.count
        return Order(images, settled.batch_size, count, self.recipe.seed)

    def _batches(
        self,
        order: Order,
        start: tuple[int, int],
        *,
        epochs: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Batch]:
        recipe = self.recipe
        return loaders.batches(
            self.splits.train,
            recipe,
            order,
            process=self.processes.index,
            start=start,
            epochs=recipe.freeze_epochs + recipe.epochs if epochs is None else epochs,
            workers=self.workers if workers is None else workers,
            ignore_index=self.splits.ignore_index,
            pin_memory=self.processes.device.type == "cuda",
        )

    def _validator(self, settled: Settled) -> Validator:
        return Validator(
            self.splits.val,
            self.processes,
            classes=self.splits.classes,
            class_names=self.splits.class_names,
            ignore_index=self.splits.ignore_index,
            size=self.recipe.size,
            batch_size=settled.batch_size,
            workers=self.workers,
            precision=settled.precision,
            channels_last=self.recipe.channels_last,
        )


def description(
    model: SegmentationModel,
    recipe: Recipe,
    splits: DataSplits,
    processes: Processes,
    precision: str,
) -> dict[str, Any]:
    """What makes a training the one that it is, in plain values."""
    config = model.config
    saved = config.saved()
    value = {
        "recipe": asdict(recipe),
        "model": {
            "architecture": model.architecture,
            "began_with": model.base_model,
            **config.arguments(),
        },
        "computing": {
            item.name: getattr(config, item.name)
            for item in fields(config)
            if item.name not in saved and item.name != "pretrained"
        },
        "data": {
            "images": [len(splits.train), len(splits.val)],
            "ignore_index": splits.ignore_index,
            **splits.description,
        },
        "processes": processes.count,
        "device": processes.device.type,
        "precision": precision,
    }
    plain: dict[str, Any] = json.loads(json.dumps(value, default=str))
    return plain


def versions() -> dict[str, str]:
    """Of what computes: another one may come to other bits."""
    import timm

    return {"segzoo": __version__, "torch": str(torch.__version__), "timm": timm.__version__}


def _same_versions(then: Mapping[str, str]) -> None:
    now = versions()
    changed = [
        f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]
    ]
    if changed:
        warn(
            f"The training goes on with other versions ({', '.join(changed)}): its last bits may "
            "differ from those of a training that was never stopped."
        )


def _settled(saved: Mapping[str, Any]) -> Settled:
    weights = saved["class_weights"]
    return Settled(**{**saved, "class_weights": None if weights is None else tuple(weights)})


def best_weights(model: SegmentationModel, folder: TrainingFolder, processes: Processes) -> None:
    """Give a model the weights that a folder has; all processes get those of the first."""
    weights = processes.from_first(lambda: dict(from_pretrained(folder.out).state_dict()))
    model.load_state_dict(weights)
    # As a loaded model lies: in another layout the last bits of logits differ.
    model.to(processes.device, memory_format=torch.contiguous_format).eval()


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
        was_finished=was_finished,
    )
