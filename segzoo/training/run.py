"""A training put together: from recipe and data to a loop, and from its end to files."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..architectures.base import SegmentationModel, from_pretrained
from ..data.dataset import SegmentationData
from ..data.splits import DataSplits, names_of
from . import loaders
from .features import DEFAULT_BYTES, FeatureCache
from .finding import PLAIN_BATCH, find_batch_size, find_learning_rate
from .folder import TrainingFolder
from .identity import versions
from .items import Checked
from .kept import Kept, room_for_pairs
from .learner import Batch, Settled
from .loop import Loop
from .lora import plain
from .order import Order
from .processes import Processes
from .rate_figure import draw_rates
from .recipe import Recipe
from .results import write_results
from .sharded_learner import learner_of
from .splits import balanced
from .spreading import from_first
from .teacher import Teacher
from .validate import Validator


class Run:
    """One training, put together.

    Attributes:
        feature_bytes: How much of an encoder's maps is kept at most.
        feature_folder: Where, or None for the memory.
    """

    feature_folder: Path | None

    def __init__(
        self,
        model: SegmentationModel,
        recipe: Recipe,
        splits: DataSplits,
        processes: Processes,
        folder: TrainingFolder,
        workers: int,
        *,
        teacher: Teacher | None = None,
    ) -> None:
        self.model, self.recipe, self.splits = model, recipe, splits
        self.processes, self.folder, self.workers = processes, folder, workers
        self.teacher = teacher
        self.feature_bytes, self.feature_folder = DEFAULT_BYTES, None
        self._train = self._kept(splits.train, masks=True)
        if teacher is not None:
            teacher.model.to(processes.device)
            if recipe.channels_last:
                teacher.model.to(memory_format=torch.channels_last)

    def settle(self, precision: str) -> Settled:
        """Find what the recipe leaves open."""
        recipe, first = self.recipe, self.processes.first
        if first:
            self.folder.make()
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
                teacher=self.teacher,
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
                teacher=self.teacher,
            )
            if first:
                self.folder.write_json("learning_rate.json", {"found": rate, "curve": curve})
                draw_rates(self.folder.inside / "learning_rate.png", curve, rate)
        return replace(settled, learning_rate=rate)

    def loop(
        self, settled: Settled, begun: Mapping[str, Any], *, save_seconds: float, progress: bool
    ) -> Loop:
        """The loop, at its beginning."""
        order = self._order(settled)
        ignore_index = self.splits.ignore_index
        loop = Loop(
            learner_of(
                self.model,
                self.recipe,
                settled,
                self.processes,
                ignore_index=ignore_index,
                teacher=self.teacher,
                features=self._features(settled) if self.recipe.keep_features else None,
            ),
            order,
            batches=lambda start: self._batches(order, start),
            validate=self._validator(settled, self.splits.val),
            folder=self.folder,
            names=lambda index: names_of(self.splits.train)[index],
            head={"begun": begun, "settled": asdict(settled), "versions": versions()},
            save_seconds=save_seconds,
            progress=progress,
        )
        loop.on_begin = self._write_down
        return loop

    def _write_down(self, *, new: bool) -> None:
        """Write recipe and data beside a state that is theirs; an earlier training's scores go."""
        if new:
            self.folder.forget_results(rates=self.recipe.learning_rate != "find")
        self.folder.write_text("recipe.json", self.recipe.to_json())
        self.folder.write_json("data.json", dict(self.splits.description))

    def finish(self, loop: Loop, begun: Mapping[str, Any], settled: Settled) -> dict[str, Any]:
        """Judge the best once more, fully; draw and write what people look at.

        Returns:
            The last state: what was found, and that nothing is left to do.
        """
        self.model = best_weights(self.model, self.folder, self.processes)
        meter = loop.validate.measure(self.model, fully=True)
        scores = meter.compute(self.splits.class_names)
        state: dict[str, Any] = {
            "begun": begun,
            "settled": asdict(settled),
            "versions": versions(),
            "finished": True,
            "history": loop.done.history,
            "best": loop.done.best,
            "scores": scores.to_json(),
            "test": None,
        }
        if self.splits.test is not None:
            judged = self._validator(settled, self.splits.test, again=False)
            state["test"] = judged(self.model, fully=True).to_json()
        if self.processes.first:
            found = {"epoch": state["best"]["epoch"], "val": state["scores"], "test": state["test"]}
            # The card may be written again by other versions; these have trained the model.
            trained_with = {**versions(), "Python": platform.python_version()}
            self.folder.write_json("metrics.json", {**found, "versions": trained_with})
            write_results(
                self.folder.out,
                self.model,
                self.splits.val,
                scores=scores,
                image_miou=meter.image_miou(),
                history=state["history"],
                size=self.recipe.size,
            )
            self.folder.write_state(state)
        return state

    def _features(self, settled: Settled) -> Callable[[], FeatureCache]:
        def make() -> FeatureCache:
            return FeatureCache(
                self.model,
                limit=self.feature_bytes,
                folder=self.feature_folder,
                setting=f"{settled.precision} {self.recipe.channels_last}",
            )

        return make

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
            self._train,
            recipe,
            order,
            process=self.processes.index,
            start=start,
            epochs=recipe.freeze_epochs + recipe.epochs if epochs is None else epochs,
            workers=self.workers if workers is None else workers,
            ignore_index=self.splits.ignore_index,
            pin_memory=self.processes.device.type == "cuda",
        )

    def _kept(self, data: SegmentationData, *, masks: bool, again: bool = True) -> Kept:
        """A split of which each item is looked at, and stays where it is asked for again."""
        return Kept(
            Checked(data, self.splits.in_channels),
            data,
            size=self.recipe.size,
            masks=masks,
            limit=room_for_pairs(self.workers) if again else 0,
        )

    def _validator(
        self, settled: Settled, data: SegmentationData, *, again: bool = True
    ) -> Validator:
        crop = self.recipe.crop
        return Validator(
            self._kept(data, masks=False, again=again),
            self.processes,
            classes=self.splits.classes,
            class_names=self.splits.class_names,
            ignore_index=self.splits.ignore_index,
            size=self.recipe.size,
            batch_size=settled.batch_size,
            # Whole pictures are larger than what is cut out of them to learn from.
            pixels=None if crop is None else settled.batch_size * crop[0] * crop[1],
            workers=self.workers,
            precision=settled.precision,
            channels_last=self.recipe.channels_last,
        )


def best_weights(
    model: SegmentationModel, folder: TrainingFolder, processes: Processes
) -> SegmentationModel:
    """Give a model the weights that a folder has; all processes get those of the first.

    Returns:
        The model; of one with LoRA a plain one, as the folder has.
    """
    model = plain(model)
    weights = from_first(processes, lambda: dict(from_pretrained(folder.out).state_dict()))
    model.load_state_dict(weights)
    # As a loaded model lies: in another layout the last bits of logits differ.
    return model.to(memory_format=torch.contiguous_format).eval()
