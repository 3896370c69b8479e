"""A model in training: batches in, better weights out. It knows of no folder and no epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..architectures.base import SegmentationModel
from ..losses import QueryLoss, sum_over_ranks
from .features import FeatureCache, stands_still
from .objective import (
    AnswersQueries,
    called,
    counted_pixels,
    has_unused,
    logits_of,
    loss_of_outputs,
    make_loss,
    mask_chances,
)
from .optimizer import make_optimizer
from .precision import autocast
from .processes import Processes
from .recipe import Recipe
from .sync_norm import SyncedNorms
from .teacher import Teacher

#: Images and masks of one batch, as the loader gives them.
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Settled:
    """What a recipe leaves open until data and device are known; kept with the training.

    Attributes:
        batch_size: Images of one device in each batch.
        learning_rate: The peak of the schedule.
        precision: ``float32`` or ``bfloat16``.
        class_weights: One for each class, or None.
    """

    batch_size: int
    learning_rate: float
    precision: str
    class_weights: tuple[float, ...] | None = None

    @classmethod
    def from_state(cls, saved: Mapping[str, Any]) -> Settled:
        """The values that a state has: ``asdict`` of them, with lists."""
        weights = saved["class_weights"]
        return cls(**{**saved, "class_weights": None if weights is None else tuple(weights)})


class Learner:
    """A model with its loss, optimiser and average of weights.

    Args:
        model: On the device of ``processes``; trained in place.
        recipe: How.
        settled: What the recipe left open.
        processes: Who trains along.
        ignore_index: Void in masks.
        teacher: Whose answers are learned too; on the same device.
        features: Makes the store of an encoder's maps, for as long as the encoder stands still.
    """

    def __init__(
        self,
        model: SegmentationModel,
        recipe: Recipe,
        settled: Settled,
        processes: Processes,
        *,
        ignore_index: int | None,
        teacher: Teacher | None = None,
        features: Callable[[], FeatureCache] | None = None,
    ) -> None:
        self.model, self.recipe, self.settled = model, recipe, settled
        self.processes, self.device = processes, processes.device
        self.teacher, self._make_features = teacher, features
        self.features: FeatureCache | None = None
        self.ignore_index = ignore_index
        loss = make_loss(model, recipe, settled.class_weights, ignore_index)
        self.loss = loss.to(self.device)
        # A GPU's fused kernel refuses layouts that differ in the strides of single cells alone.
        fused = self.device.type == "cpu"
        self.optimizer = make_optimizer(model, recipe, settled.learning_rate, fused=fused)
        self.ema = self.make_average(model)
        self._weights = list(model.parameters())
        self._reduce = sum_over_ranks if processes.count > 1 else None
        self._frozen_before = model.encoder.frozen_stages
        self._called: nn.Module = called(model)
        self._synced: SyncedNorms | None = None

    def make_average(self, model: SegmentationModel) -> ModelEmaV3 | None:
        """The average of weights, where the recipe has one."""
        decay = self.recipe.ema
        return None if decay is None else ModelEmaV3(model, decay, use_warmup=True)

    @property
    def scored(self) -> SegmentationModel:
        """The model that is judged: the average of weights where there is one."""
        return self.model if self.ema is None else self.ema.module

    @contextmanager
    def judged(self) -> Iterator[SegmentationModel]:
        """The model that is judged and kept, for a while, the same in all processes.

        Running statistics, which go apart in a step, are those of the first.
        """
        self.processes.copy_buffers(self.scored)
        yield self.scored

    def begin(self, *, frozen: bool) -> None:
        """Begin a part of the training, with the encoder standing still or not."""
        self._freeze(fully=frozen)
        self.to_training()
        self.features = None
        if self._make_features is not None and stands_still(self.model.encoder):
            self.features = self._make_features()
        self._called = self.joined()

    def to_training(self) -> None:
        """Let everything that learns be in training mode."""
        self.model.train()

    def joined(self) -> nn.Module:
        """The model as it is called, with gradients that are those of all processes."""
        several = self.processes.count > 1
        if several and self.recipe.sync_batch_norm and self._synced is None:
            self._synced = SyncedNorms(self.model)
        heads = called(self.model)
        return self.processes.wrap(heads, unused=several and has_unused(heads))

    def release(self) -> None:
        """Leave the model as one that is not in training."""
        if self._synced is not None:
            self._synced.undo()
            self._synced = None
        self._freeze(fully=False)

    def _freeze(self, *, fully: bool) -> None:
        """Freeze the encoder, or what of it was frozen when the training began."""
        if fully:
            self.model.freeze_encoder()
        elif self._frozen_before:
            self.model.freeze_encoder(self._frozen_before)
        else:
            self.model.unfreeze_encoder()

    def update(
        self, batches: Sequence[Batch], share: float, momentum: float, *, progress: float = 0.0
    ) -> Tensor:
        """One step of the optimiser, on one batch or on the gradients of several.

        Args:
            batches: As the loader gives them.
            share: Of its peak that the learning rate of each group has.
            momentum: AdamW's first beta.
            progress: The share of the training that is behind.

        Returns:
            The loss, a scalar on the device; NaN where loss or gradients are not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
            group["betas"] = (momentum, group["betas"][1])
        total = self._backward(batches, progress)
        if self.recipe.clip_norm is not None:
            norm = self.clipped(self.recipe.clip_norm)
            if self.device.type != "cpu":
                total = total + 0 * norm
            elif not math.isfinite(norm):
                total = torch.full_like(total, math.nan)
        # Where the loss costs nothing to look at, weights are not spoilt by what is not finite.
        if self.device.type != "cpu" or math.isfinite(total):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _backward(self, batches: Sequence[Batch], progress: float) -> Tensor:
        """Add up the gradients of batches; their loss together."""
        if len(batches) == 1:
            loss = self.loss_of(batches[0], progress)
            loss.backward()
            return loss.detach()
        losses = []
        for number, (batch, share) in enumerate(zip(batches, self._shares(batches), strict=True)):
            # Gradients go round once, with those of the last batch.
            last = number == len(batches) - 1
            with nullcontext() if last else _kept_here(self._called):
                loss = self.loss_of(batch, progress)
                loss = loss * share.to(loss.dtype)
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _shares(self, batches: Sequence[Batch]) -> Tensor:
        """How much the mean loss of each batch counts in that of all of them.

        As many pixels as it has of those that somebody labelled, in all processes together. A model
        of queries has a mean over segments, of which nobody knows how many are matched: there all
        batches count alike.
        """
        even = torch.full((len(batches),), 1 / len(batches), device=self.device)
        if isinstance(self.loss, QueryLoss):
            return even
        weights = self.loss.class_weights
        counts = torch.stack([counted_pixels(y, self.ignore_index, weights) for _, y in batches])
        counts = counts.to(self.device)
        if self._reduce is not None:
            counts = self._reduce(counts)
        return torch.where(counts.sum() > 0, counts / counts.sum(), even)

    def clipped(self, longest: float) -> Tensor:
        """Make the gradient no longer than that; how long it was."""
        return nn.utils.clip_grad_norm_(self._weights, longest)

    def averaged(self, step: int) -> None:
        """Let the weights after ``step`` steps into their average, where there is one."""
        if self.ema is not None:
            self.ema.update(self.model, step=step)

    def loss_of(self, batch: Batch, progress: float = 0.0) -> Tensor:
        """The loss of a batch, over all processes."""
        image, target = self.moved(batch)
        answers: Tensor | None = None
        with autocast(self._precision_for(image), self.device):
            outputs = self._called(image, **self._arguments(batch[0], image, progress))
            if self.teacher is not None:
                answers = self.teacher.answers(batch[0], channels_last=self.recipe.channels_last)
        loss = loss_of_outputs(
            self.loss, outputs, target, auxiliary=self.recipe.auxiliary, reduce=self._reduce
        )
        if self.teacher is None or answers is None:
            return loss
        return loss + self.teacher.loss(
            logits_of(outputs, (image.shape[-2], image.shape[-1])),
            answers,
            target,
            ignore_index=self.ignore_index,
            reduce=self._reduce,
        )

    def _arguments(self, raw: Tensor, image: Tensor, progress: float) -> dict[str, Any]:
        """What is called with, beside the image."""
        if isinstance(self.model, AnswersQueries):
            return {"chances": mask_chances(self.model.query_blocks, progress)}
        if self.features is not None:
            last = self.recipe.channels_last
            return {"maps": self.features.maps(raw, image, channels_last=last)}
        return {}

    def _precision_for(self, image: Tensor) -> str:
        """That of the training; float32 for images of hardly a cell of the deepest map on a CPU.

        Of a convolution with a stride and padding on a map that is one cell wide, oneDNN 3.12 with
        torch 2.14 computes the gradient of the weight in bfloat16 from memory that nobody has
        written to: at times NaN, at times something else.
        """
        narrow = image.shape[-1] <= self.model.encoder.features[-1].stride
        return "float32" if self.device.type == "cpu" and narrow else self.settled.precision

    def moved(self, batch: Batch) -> Batch:
        """A batch on the device, its images normalised."""
        image, target = (item.to(self.device, non_blocking=True) for item in batch)
        image = self.model.normalization(image)
        if self.recipe.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return image, target

    def state(self) -> dict[str, Any]:
        """All that a later :meth:`load_state` needs; tensors are not copied."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else dict(self.ema.module.state_dict()),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])


def _kept_here(called: nn.Module) -> AbstractContextManager[None]:
    """Meanwhile gradients are not exchanged between processes, where there are several."""
    if not isinstance(called, DistributedDataParallel):
        return nullcontext()
    kept: AbstractContextManager[None] = called.no_sync()
    return kept
