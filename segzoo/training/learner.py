"""A model in training: batches in, better weights out. It knows of no folder and no epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..architectures.base import SegmentationModel
from ..architectures.heads import Outputs
from ..losses import SegmentationLoss, outputs_loss, sum_over_ranks
from ..nn.sharing import in_eval_mode
from .optimizer import make_optimizer
from .precision import autocast
from .processes import Processes
from .recipe import Recipe

#: Images and masks of one batch, as the loader gives them.
Batch = tuple[Tensor, Tensor]
#: Side of the images that unused parameters are looked for with.
_SIDE = 64


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
    """

    def __init__(
        self,
        model: SegmentationModel,
        recipe: Recipe,
        settled: Settled,
        processes: Processes,
        *,
        ignore_index: int | None,
    ) -> None:
        self.model, self.recipe, self.settled = model, recipe, settled
        self.processes, self.device = processes, processes.device
        self.loss = make_loss(recipe, settled, ignore_index).to(self.device)
        self.optimizer = make_optimizer(model, recipe, settled.learning_rate)
        self.ema = None if recipe.ema is None else ModelEmaV3(model, recipe.ema, use_warmup=True)
        self._reduce = sum_over_ranks if processes.count > 1 else None
        self._frozen_before = model.encoder.frozen_stages
        self._called: nn.Module = AllHeads(model)

    @property
    def scored(self) -> SegmentationModel:
        """The model that is judged and kept: the average of weights where there is one."""
        return self.model if self.ema is None else self.ema.module

    def begin(self, *, frozen: bool) -> None:
        """Begin a part of the training, with the encoder standing still or not."""
        if frozen:
            self.model.freeze_encoder()
        else:
            self.release()
        self.model.train()
        heads = AllHeads(self.model)
        several = self.processes.count > 1
        self._called = self.processes.wrap(heads, unused=several and has_unused(heads))

    def release(self) -> None:
        """Freeze what was frozen when the training began, and nothing else."""
        if self._frozen_before:
            self.model.freeze_encoder(self._frozen_before)
        else:
            self.model.unfreeze_encoder()

    def update(self, batches: Sequence[Batch], share: float, momentum: float) -> Tensor:
        """One step of the optimiser, on one batch or on the gradients of several.

        Args:
            batches: As the loader gives them.
            share: Of its peak that the learning rate of each group has.
            momentum: AdamW's first beta.

        Returns:
            The loss, a scalar on the device; NaN where loss or gradients are not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
            group["betas"] = (momentum, group["betas"][1])
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches, start=1):
            # Gradients go round once, with those of the last batch.
            last = number == len(batches)
            with nullcontext() if last else _kept_here(self._called):
                loss = self.loss_of(batch) / len(batches)
                loss.backward()
            total += loss.detach()
        if self.recipe.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
            total = total + 0 * norm
        # Where the loss costs nothing to look at, weights are not spoilt by what is not finite.
        if self.device.type == "cpu" and not math.isfinite(total):
            self.optimizer.zero_grad(set_to_none=True)
            return total
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def averaged(self, step: int) -> None:
        """Let the weights after ``step`` steps into their average, where there is one."""
        if self.ema is not None:
            self.ema.update(self.model, step=step)

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of a batch, over all processes."""
        image, target = self.moved(batch)
        with autocast(self._precision_for(image), self.device):
            outputs = self._called(image)
        return outputs_loss(
            self.loss, outputs, target, auxiliary=self.recipe.auxiliary, reduce=self._reduce
        )

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


class AllHeads(nn.Module):
    """A model that gives whatever it was built to answer: what is called in training.

    Args:
        model: Of segzoo.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.more = bool(
            config.deep_supervision or config.auxiliary_stride or config.classification
        )

    def forward(self, image: Tensor) -> Outputs:
        """Logits, and what other heads say."""
        return (
            self.model.forward_heads(image) if self.more else Outputs(self.model(image), {}, None)
        )


def _kept_here(called: nn.Module) -> AbstractContextManager[None]:
    """Meanwhile gradients are not exchanged between processes, where there are several."""
    if not isinstance(called, DistributedDataParallel):
        return nullcontext()
    kept: AbstractContextManager[None] = called.no_sync()
    return kept


def make_loss(recipe: Recipe, settled: Settled, ignore_index: int | None) -> SegmentationLoss:
    """The loss of a recipe."""
    return SegmentationLoss(
        ignore_index=ignore_index,
        cross_entropy=recipe.cross_entropy,
        dice=recipe.dice,
        focal=recipe.focal,
        focal_gamma=recipe.focal_gamma,
        boundary=recipe.boundary,
        lovasz=recipe.lovasz,
        class_weights=settled.class_weights,
        label_smoothing=recipe.label_smoothing,
    )


def has_unused(heads: AllHeads) -> bool:
    """Whether there are trainable parameters that no output depends on: asked of the gradients.

    ``DistributedDataParallel`` waits for ever for the gradients of such, unless it is told.
    """
    left = [item for item in heads.parameters() if item.requires_grad]
    with in_eval_mode(heads) as still, torch.enable_grad():
        size = (2, heads.model.in_channels, _SIDE, _SIDE)
        outputs = still(torch.zeros(size, device=left[0].device, dtype=left[0].dtype))
        given = [outputs.logits, *outputs.auxiliary.values()]
        if outputs.image_logits is not None:
            given.append(outputs.image_logits)
        total = torch.stack([item.sum() for item in given]).sum()
        reached = torch.autograd.grad(total, left, allow_unused=True)
    return any(item is None for item in reached)
