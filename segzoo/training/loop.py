"""The loop: epochs of steps, a look at the validation data, the best kept, the state saved."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..architectures.base import SegmentationModel
from ..errors import TrainingError
from .folder import TrainingFolder
from .learner import Batch, Learner
from .lora import plain
from .order import Order
from .schedule import OneCycle
from .score_values import Scores, number
from .state import Position, random_state, set_random_state
from .stopping import StopRequests
from .validate import Validator

#: A device other than a CPU works ahead: looking at each loss would make it wait.
_LOOK_EVERY = 20


@dataclass
class Progress:
    """What a training has behind it.

    Attributes:
        position: Where it is.
        history: One row for each epoch.
        best: Epoch (from 1) and mean IoU of the best; None before the first.
        losses: Sum and number of the losses of the epoch that is running.
        seconds: How long it took so far, over all parts.
    """

    position: Position = field(default_factory=Position)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    losses: tuple[float, int] = (0.0, 0)
    seconds: float = 0.0


class Loop:
    """A training from wherever it is to its end.

    Args:
        learner: What learns.
        order: Which image comes when.
        batches: Gives the batches from an epoch and a batch in it on, over all epochs.
        validate: Scores a model on the validation data.
        folder: Where everything is written.
        names: Of the training images.
        head: What the training was begun with: goes into every state.
        save_seconds: How long a state may be old within an epoch.
        progress: Whether to show a bar on stderr.
    """

    def __init__(
        self,
        learner: Learner,
        order: Order,
        *,
        batches: Callable[[tuple[int, int]], Iterator[Batch]],
        validate: Validator,
        folder: TrainingFolder,
        names: Callable[[int], str],
        head: Mapping[str, Any],
        save_seconds: float,
        progress: bool,
    ) -> None:
        self.learner, self.order, self.folder = learner, order, folder
        self.recipe, self.processes = learner.recipe, learner.processes
        self.batches, self.validate, self.names = batches, validate, names
        self.head, self.save_seconds = head, save_seconds
        #: Told each row before it is saved, so that a kill repeats a row and never loses one.
        self.track: Callable[[Mapping[str, Any]], None] = lambda row: None
        self.on_epoch: Callable[[Mapping[str, Any]], None] = lambda row: None
        #: Called by the first process when there is a state, and whether no epoch of it is over.
        self.on_begin: Callable[..., None] = lambda new: None
        #: Whether the folder holds a state of this training.
        self._stored = False
        self.done = Progress()
        self.updates = -(-order.batches // self.recipe.accumulate)
        self.epochs = self.recipe.freeze_epochs + self.recipe.epochs
        shown = progress and self.processes.first
        self.bar = tqdm(total=self.epochs * self.updates, unit="step", disable=not shown)
        self._watched: list[tuple[Position, Tensor]] = []
        self._saved_at = time.monotonic()
        self._started = time.monotonic()

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.learner.load_state(state)
        self.done = Progress(
            Position(**state["position"]),
            list(state["history"]),
            state["best"],
            (state["losses"][0], state["losses"][1]),
            state["seconds"],
        )
        set_random_state(state["random"][self.processes.index], self.learner.device)
        self._stored = True
        self._started -= self.done.seconds
        self.bar.update(self.done.position.step)

    def run(self) -> Progress:
        """Train to the end, or until somebody asks to stop.

        Nothing is written before a step was taken: what is refused until then, images of two sizes
        or a batch too large for the memory, leaves what the folder holds of another training.

        Raises:
            TrainingError: The loss is not finite.
            StorageError: Something could not be written.
            KeyboardInterrupt: Ctrl-C, after the state was saved.
            SystemExit: SIGTERM, after the state was saved.
        """
        start = self.done.position
        if self._stored:
            self._begun()
        stream = self.batches((start.epoch, start.batch))
        try:
            with StopRequests() as requests, self.bar:
                self._epochs(start.epoch, stream, requests)
        finally:
            self.learner.release()
        return self.done

    def _epochs(self, first: int, stream: Iterator[Batch], requests: StopRequests) -> None:
        frozen: bool | None = None
        for epoch in range(first, self.epochs):
            if self._patience_is_over():
                break
            if frozen is not (epoch < self.recipe.freeze_epochs):
                frozen = epoch < self.recipe.freeze_epochs
                self.learner.begin(frozen=frozen)
            self._epoch(epoch, stream, requests)

    def _epoch(self, epoch: int, stream: Iterator[Batch], requests: StopRequests) -> None:
        self.learner.to_training()
        self.steps(epoch, stream, requests)
        self._look(requests, now=True)
        self._end_of_epoch(epoch, requests)

    def steps(self, epoch: int, stream: Iterator[Batch], requests: StopRequests) -> None:
        """Take the steps that an epoch still has."""
        accumulate = self.recipe.accumulate
        while self.done.position.batch < self.order.batches:
            here = self.done.position
            count = min(accumulate, self.order.batches - here.batch)
            batches = list(itertools.islice(stream, count))
            progress = here.step / (self.epochs * self.updates)
            loss = self.learner.update(batches, *self._rate(here), progress=progress)
            self._watched.append((here, loss))
            step = here.step + 1
            self.learner.averaged(step)
            self.done.position = Position(epoch, here.batch + count, step)
            self.bar.update()
            self._look(requests)

    def _rate(self, position: Position) -> tuple[float, float]:
        """The rate of the next step as a share of its peak, and the momentum."""
        recipe = self.recipe
        if position.epoch < recipe.freeze_epochs:
            return OneCycle(recipe.freeze_epochs * self.updates, recipe.warmup).at(position.step)
        step = position.step - recipe.freeze_epochs * self.updates
        return OneCycle(recipe.epochs * self.updates, recipe.warmup).at(step)

    def _look(self, requests: StopRequests, *, now: bool = False) -> None:
        """Look at the losses, and whether it is time to save or to stop.

        All processes come to the same answers: they have the same losses, and the largest request.
        """
        on_cpu = self.learner.device.type == "cpu"
        now = now or on_cpu or not self._stored
        # One process need not agree with others on what it was asked for.
        now = now or (self.processes.count == 1 and requests.received is not None)
        if not now and len(self._watched) < _LOOK_EVERY:
            return
        total, count = self.done.losses
        for position, loss in self._watched:
            value = float(loss)
            if not math.isfinite(value):
                self._not_finite(position)
            total, count = total + value, count + 1
            if not self.bar.disable:
                self.bar.set_postfix(self._shown(value), refresh=False)
        self._watched.clear()
        self.done.losses = (total, count)
        old = time.monotonic() - self._saved_at > self.save_seconds
        number, is_old = divmod(
            self.processes.largest(2 * (requests.received or 0) + (old and self.processes.first)), 2
        )
        begins = not self._stored
        if number or is_old or begins:
            self.save()
        if begins:
            self._stored = True
            self._begun()
        if number:
            requests.stop(int(number))

    def _begun(self) -> None:
        """Have written what belongs beside a state that is there."""
        if self.processes.first:
            self.on_begin(new=not self.done.history)

    def _shown(self, loss: float) -> dict[str, str]:
        shown = {"loss": f"{loss:.3f}"}
        if self.done.history:
            shown["mIoU"] = number(self.done.history[-1]["val"]["miou"])
        return shown

    def _not_finite(self, position: Position) -> None:
        """Raise for a loss that is no number, with the images that it came from."""
        keys = self.order.epoch(position.epoch, self.processes.index)
        here = keys[position.batch : position.batch + self.recipe.accumulate]
        mine = [self.names(index) for batch in here for _, index in batch]
        names = [name for each in self.processes.gather(mine) for name in each]
        best = self.done.best
        if best is not None:
            kept = f"The model of epoch {best['epoch']} is in {self.folder.out}."
        elif self.folder.holds_model():
            kept = f"The model in {self.folder.out} is of the training before."
        else:
            kept = "There is no model yet."
        raise TrainingError(
            f"The loss or its gradient is not finite at step {position.step + 1} (epoch "
            f"{position.epoch + 1}), in the batch of {', '.join(names)}. {kept} Look at these "
            "images for values that are not finite; else take a lower learning_rate, a "
            "clip_norm, or precision='float32', and begin anew with restart=True (--restart)."
        )

    def _end_of_epoch(self, epoch: int, requests: StopRequests) -> None:
        with self.learner.judged() as model:
            scores = self.validate(
                model,
                features=self.learner.features,
                between=partial(self._stop_if_asked, requests),
            )
            self._keep(epoch, model, scores)
        total, count = self.done.losses
        row = {
            "epoch": epoch + 1,
            "step": self.done.position.step,
            "loss": total / max(count, 1),
            "lr": max(group["lr"] for group in self.learner.optimizer.param_groups),
            "seconds": round(time.monotonic() - self._started, 2),
            "val": scores.to_json(small=True),
        }
        self.done.history.append(row)
        if self.processes.first:
            self.folder.write_lines("metrics.jsonl", self.done.history)
        self.done.position = Position(epoch + 1, 0, self.done.position.step)
        self.done.losses = (0.0, 0)
        self.track(row)
        self.save()
        self.on_epoch(row)
        self._look(requests, now=True)

    def _stop_if_asked(self, requests: StopRequests) -> None:
        """Stop between two batches that are judged: the epoch is then judged again, from its first.

        Judging changes nothing that is learned, so the state is that of the epoch's last step.
        """
        number = int(self.processes.largest(requests.received or 0))
        if number:
            self.save()
            requests.stop(number)

    def _keep(self, epoch: int, model: SegmentationModel, scores: Scores) -> None:
        """Save the model where it is the best so far."""
        if self.done.best is None or better(scores.miou, self.done.best["miou"]):
            self.done.best = {"epoch": epoch + 1, "miou": scores.miou}
            if self.processes.first:
                plain(model).save_pretrained(self.folder.out)

    def _patience_is_over(self) -> bool:
        if self.recipe.patience is None or self.done.best is None:
            return False
        # A head that learns no more says nothing of an encoder that has yet to begin.
        since = max(int(self.done.best["epoch"]), self.recipe.freeze_epochs)
        return len(self.done.history) - since >= self.recipe.patience

    def save(self) -> None:
        """Save the state, with the random numbers of all processes."""
        random = self.processes.gather(random_state(self.learner.device))
        self.done.seconds = time.monotonic() - self._started
        state = self.learner.state()  # where each has a part, all of them put it together
        if self.processes.first:
            self.folder.write_state(
                {
                    **self.head,
                    "finished": False,
                    **asdict(self.done),
                    **state,
                    "random": random,
                }
            )
        self._saved_at = time.monotonic()


def better(new: float | None, old: float | None) -> bool:
    """Whether a mean IoU is above another; one that could not be had is below all."""
    return new is not None and (old is None or new > old)
