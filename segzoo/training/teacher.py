"""A model to learn from: it stands still and answers."""

from __future__ import annotations

import torch
from torch import Tensor

from ..architectures.base import SegmentationModel, from_pretrained
from ..errors import ArgumentError
from ..losses import distillation_loss
from ..losses.sums import Reduce
from ..prediction.pixel_model import fingerprint, pixel_model
from .recipe import Recipe


class Teacher:
    """What a model is taught by, beside the labels.

    Args:
        model: Stands still from here on.
        recipe: Says at which temperature, and with which weight.

    Attributes:
        key: A hash of its weights.
    """

    def __init__(self, model: SegmentationModel, recipe: Recipe) -> None:
        self.model = model.eval().requires_grad_(False)
        self.temperature, self.weight = recipe.temperature, recipe.distillation
        with pixel_model(model) as ready:
            self.key = fingerprint(ready)

    @classmethod
    def of(cls, recipe: Recipe, student: SegmentationModel) -> Teacher | None:
        """The recipe's teacher, or None where it has none.

        Raises:
            ArgumentError: It has other classes or bands than the model, or gives no logits.
            StorageError: It cannot be loaded.
        """
        if recipe.teacher is None:
            return None
        model = from_pretrained(recipe.teacher)
        if not model.gives_logits:
            raise ArgumentError(
                f"The teacher {recipe.teacher} squeezes its outputs into a range: they are no "
                "logits, which are what is learned from a teacher. Take another one."
            )
        for what, mine, theirs in (
            ("classes", student.classes, model.classes),
            ("bands", student.in_channels, model.in_channels),
        ):
            if mine != theirs:
                raise ArgumentError(
                    f"The teacher {recipe.teacher} has {theirs} {what}, the model {mine}: it can "
                    f"only be taught what both have in common."
                )
        names = student.class_names
        if names is not None and model.class_names not in (None, names):
            raise ArgumentError(
                f"The teacher {recipe.teacher} has the classes {', '.join(model.class_names or ())}"
                f", the model {', '.join(names)}: their order and names must be the same."
            )
        return cls(model, recipe)

    @torch.no_grad()
    def answers(self, image: Tensor, *, channels_last: bool) -> Tensor:
        """Its logits.

        Args:
            image: ``(N, C, H, W)`` as the loader gives it, not normalised, on any device.
            channels_last: How it lies in memory.
        """
        weight = next(self.model.parameters())
        moved = self.model.normalization(image.to(weight.device, non_blocking=True))
        if channels_last:
            moved = moved.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.model(moved)
        return logits

    def loss(
        self,
        logits: Tensor,
        answers: Tensor,
        target: Tensor,
        *,
        ignore_index: int | None,
        reduce: Reduce | None,
    ) -> Tensor:
        """What is added to the loss of the labels."""
        return self.weight * distillation_loss(
            logits,
            answers,
            target,
            temperature=self.temperature,
            ignore_index=ignore_index,
            reduce=reduce,
        )
