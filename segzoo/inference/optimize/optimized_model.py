"""What :func:`segzoo.optimize` gives: a model for inference only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from ..._compat import refuse_moves
from ...architectures.base import SegmentationModel
from ...config import Configured
from ...errors import ArgumentError, InputError
from ...nn.full_precision import full_precision
from ...prediction.inputs import check_batch, warn_if_resized
from ...prediction.masks import VOID, classes_of
from .answers import decided
from .backends import RecordedFor
from .trace import Body


@dataclass(frozen=True)
class PassReport:
    """What became of one pass.

    Attributes:
        name: The pass.
        applied: Whether the optimised model has it.
        detail: What it did, or why it was left out.
    """

    name: str
    applied: bool
    detail: str


class OptimizedModel(Configured, nn.Module):
    """A model for inference, made by :func:`segzoo.optimize`: images in, logits out.

    It takes images of any size and floating point type on its device, and cannot be trained,
    moved, copied or saved: those are for the model that it was made from.

    Attributes:
        passes: What was done to it, a tuple of :class:`PassReport`.
        device: Where it computes.
        dtype: Its precision, which images are rounded to, and that of its logits. Between them it
            computes in float32 where the report says so.
        stride: Pixels between the steps that all maps share.
        size_rule: Which image sizes the encoder takes as they are.
    """

    def __init__(
        self,
        model: SegmentationModel,
        body: Body,
        run: nn.Module,
        passes: tuple[PassReport, ...],
        example: Tensor,
        channels_last: bool,
        answers: RecordedFor | None = None,
    ) -> None:
        super().__init__()
        self.config = model.config
        self._threshold = model.threshold
        self.passes = passes
        self.device, self.dtype = example.device, example.dtype
        self.stride, self.size_rule = model.stride, model.size_rule
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._encoder = body.encoder
        self._run = run
        self._answers = answers
        super().train(False)

    @property
    def threshold(self) -> float:
        """With one class: the output above which a pixel belongs to it; what is recorded has it."""
        return self._threshold

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Normalised images ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

        The same under ``torch.autocast``.

        Raises:
            InputError: Another shape, integers, or an image on another device.
        """
        self._check(image)
        # What comes is cast by hand; autocast would cast between the steps, which were chosen, and
        # may be recorded or compiled, for the precision that the model has.
        with full_precision(self.device):
            if isinstance(self._run, RecordedFor) and self._run.takes(image):
                recorded: Tensor = self._run(image)
                return recorded
            rule = self._encoder.size_rule
            fitted = rule.fit(image.to(self.dtype)).contiguous(memory_format=self._layout)
            return rule.restore(self._run(fitted), (image.shape[-2], image.shape[-1]))

    @torch.no_grad()
    def masks(self, image: Tensor) -> Tensor:
        """Normalised images ``(N, in_channels, H, W)`` -> the class of each pixel ``(N, H, W)``.

        uint8: with one class 1 where the logit is above :attr:`threshold`, and 255 where a logit is
        NaN. On a GPU images of the example's shape are decided there, in the recorded graph, and
        no logits are handed out: of 3 classes in bfloat16 they are six times as large.
        :meth:`predict` takes pictures instead, and does the same.

        Raises:
            InputError: As :meth:`forward`.
            ArgumentError: The model has more than 255 classes, which uint8 does not hold.
        """
        if self.classes > VOID:
            raise ArgumentError(
                f"masks gives uint8, where {VOID} is no class; the model has {self.classes} "
                "classes. Take predict, which gives int64."
            )
        if self._answers is not None and isinstance(image, Tensor) and self._answers.takes(image):
            self._check(image)
            with full_precision(self.device):
                recorded: Tensor = self._answers(image)
            return recorded
        return decided(self(image), self.threshold)

    def _check(self, image: Tensor) -> None:
        check_batch(image, self.in_channels)
        if image.device != self.device:
            raise InputError(
                f"The image is on {image.device}, the optimised model on {self.device}."
            )
        warn_if_resized(image, self._encoder)

    @torch.no_grad()
    def predict(self, image: Tensor, *, min_confidence: float | None = None) -> Tensor:
        """Pictures -> the class of each pixel, as :meth:`segzoo.SegmentationModel.predict`."""
        weight = torch.empty(0, device=self.device, dtype=self.dtype)
        masks = None if self._answers is None else self.masks
        return classes_of(self, image, weight, min_confidence, masks=masks)

    def report(self) -> str:
        """What each pass did, or why it was left out, one line each."""
        width = max(len(item.name) for item in self.passes)
        return "\n".join(
            f"{'x' if item.applied else ' '} {item.name:{width}}  {item.detail}"
            for item in self.passes
        )

    def train(self, mode: bool = True) -> OptimizedModel:
        """Refused for True: batch norms are folded, so there is nothing left to train.

        Raises:
            ArgumentError: ``mode`` is True.
        """
        if mode:
            raise ArgumentError(
                "An optimised model cannot be trained. Train the model that it was made from, and "
                "optimise it again."
            )
        return self

    def _refuse_to_move(self, *_: object, **__: object) -> NoReturn:
        raise ArgumentError(
            f"An optimised model is made for its device and precision ({self.device}, "
            f"{self.dtype}). Move or cast the model that it was made from, and optimise it again."
        )

    def __reduce_ex__(self, protocol: object) -> str | tuple[object, ...]:
        raise ArgumentError(
            "An optimised model cannot be copied or saved: its weights are packed for this "
            "machine. Save the model that it was made from (model.save_pretrained), or export it "
            "(segzoo.export)."
        )


refuse_moves(OptimizedModel, OptimizedModel._refuse_to_move)
