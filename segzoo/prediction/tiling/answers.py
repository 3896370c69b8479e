"""What is kept of answers: classes, probabilities or logits, and where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.readers.face import Values
from ...errors import ArgumentError
from ..masks import check_confidence
from ..pixel_model import PixelModel

KINDS = ("classes", "probabilities", "logits")


@dataclass(frozen=True)
class Answers:
    """How results look.

    Args:
        kind: One of :data:`KINDS`.
        channels: Values of each pixel; 0 for a mask, which has no such axis.
        dtype: NumPy's name of their type.
        nodata: What unknown pixels get.
        min_confidence: Of masks: pixels of a smaller probability are void; None for none.
    """

    kind: str
    channels: int
    dtype: str
    nodata: float
    min_confidence: float | None = None

    def empty(self, height: int, width: int) -> Values:
        """A band of rows, all unknown: ``(channels, rows, width)``, or ``(rows, width)``."""
        shape = (self.channels, height, width) if self.channels else (height, width)
        return np.full(shape, self.nodata, self.dtype)

    def bytes_for(self, height: int, width: int) -> int:
        """Uncompressed."""
        return max(self.channels, 1) * height * width * np.dtype(self.dtype).itemsize

    def of(self, model: PixelModel, answer: Tensor, known: Values | None) -> Values:
        """Values of what :meth:`PixelModel.answer` gave, ``(1, C, h, w)``."""
        chosen = answer[0]
        if self.kind == "classes":
            chosen = model.mask(answer, self.kind, self.min_confidence)[0]
        # NumPy knows no bfloat16.
        wide = chosen.float() if chosen.dtype is torch.bfloat16 else chosen
        values = wide.cpu().numpy().astype(self.dtype)
        if known is not None:
            values[..., ~known] = self.nodata
        return values


def answers_for(model: PixelModel, kind: str, min_confidence: float | None = None) -> Answers:
    """The smallest types that hold a model's answers.

    Raises:
        ArgumentError: Logits of several views, which are averaged as probabilities; or unsure
            pixels that nothing marks.
    """
    least = check_confidence(min_confidence, model.classes)
    if least is not None and kind != "classes":
        raise ArgumentError(
            f"min_confidence marks pixels of masks, and {kind} are to be written: they say how "
            "sure the model is. Leave one of both out."
        )
    if kind == "classes":
        # One value stays free for what is not known: 256 classes need 16 bits.
        small = model.classes <= 255
        return Answers(kind, 0, "uint8" if small else "uint16", 255 if small else 65535, least)
    if kind == "logits":
        if model.views.count > 1:
            raise ArgumentError(
                "Views are averaged in probability, so there are no logits to write; use "
                "write='probabilities', or tta='none' and one scale."
            )
        dtype = "float64" if model.dtype is torch.float64 else "float32"
        return Answers(kind, model.channels, dtype, float("nan"))
    return Answers(kind, model.channels, "float16", float("nan"))
