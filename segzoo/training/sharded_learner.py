"""A model in training of which each process holds a part only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from ..architectures.base import SegmentationModel
from .learner import Learner, Settled
from .processes import Processes
from .recipe import Recipe
from .sharding import Shards, whole
from .state import random_state, set_random_state


class ShardedLearner(Learner):
    """A learner whose weights, gradients and moments are cut into parts.

    The whole model waits in the CPU's memory. It is on the device only while it is judged, with no
    gradients and no moments beside it.
    """

    def __init__(self, model: SegmentationModel, *arguments: Any, **options: Any) -> None:
        super().__init__(model.cpu(), *arguments, **options)
        random = random_state(self.device)
        synced = self.recipe.sync_batch_norm
        self.shards = Shards(model, self.processes, sync_batch_norm=synced)
        self.shards.take_over(self.optimizer, model)
        self.average: Shards | None = None
        if self.recipe.ema is not None:
            self.average = Shards(model, self.processes)
            # It averages next to nothing: what is asked is the decay of each step.
            self._decay = ModelEmaV3(nn.Linear(1, 1), self.recipe.ema, use_warmup=True)
        # torch gives all processes the random numbers of the first where it cuts a tensor.
        set_random_state(random, self.device)

    def make_average(self, model: SegmentationModel) -> None:
        """The average is cut as well, and kept here."""

    @contextmanager
    def judged(self) -> Iterator[SegmentationModel]:
        """The whole model, put together on the device for a while."""
        (self.average or self.shards).gather_into(self.model)
        self.model.to(self.device)
        with super().judged() as model:
            yield model
        self.model.cpu()

    def to_training(self) -> None:
        """Let everything that learns be in training mode."""
        super().to_training()
        self.shards.follow(self.model)

    def joined(self) -> nn.Module:
        """The model as it is called: layers are put together as they come."""
        return self.shards.called

    def release(self) -> None:
        """Leave the model as one that is not in training."""
        super().release()
        self.model.to(self.device)

    def clipped(self, longest: float) -> Tensor:
        """Make the gradient no longer than that; how long all parts of it were together."""
        return whole(nn.utils.clip_grad_norm_(self.shards.model.parameters(), longest))

    def averaged(self, step: int) -> None:
        """Let the weights after ``step`` steps into their average, where there is one."""
        if self.average is not None:
            self.average.blend(self.shards, 1.0 - self._decay.get_decay(step))

    def state(self) -> dict[str, Any]:
        """All that a later :meth:`load_state` needs, whole in the first process.

        All of them have to call this; the others get shapes without values.
        """
        return {
            "model": self.shards.state(),
            "optimizer": self.shards.optimizer_state(self.optimizer),
            "ema": None if self.average is None else self.average.state(),
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave: the values are those that the first process has."""
        self.shards.load_state(state["model"])
        self.shards.load_optimizer_state(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load_state(state["ema"])


def learner_of(
    model: SegmentationModel,
    recipe: Recipe,
    settled: Settled,
    processes: Processes,
    **options: Any,
) -> Learner:
    """The learner that a recipe asks for; arguments are those of :class:`Learner`."""
    kind = Learner if recipe.sharding is None else ShardedLearner
    return kind(model, recipe, settled, processes, **options)
