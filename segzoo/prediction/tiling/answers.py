"""What is kept of answers: classes, probabilities or logits, and where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.readers.face import Values
from ...errors import ArgumentError
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
    """

    kind: str
    channels: int
    dtype: str
    nodata: float

    def empty(self, height: int, width: int) -> Values:
        """A band of rows, all unknown: ``(channels, rows, width)``, or ``(rows, width)``."""
        shape = (self.channels, height, width) if self.channels else (height, width)
        return np.full(shape, self.nodata, self.dtype)

    def bytes_for(self, height: int, width: int) -> int:
        """Uncompressed."""
        return max(self.channels, 1) * height * width * np.dtype(self.dtype).itemsize

    def of(self, model: PixelModel, answer: Tensor, known: Values | None) -> Values:
        """Values of what :meth:`PixelModel.answer` gave, ``(1, C, h, w)``."""
        chosen = model.mask(answer, self.kind)[0] if self.kind == "classes" else answer[0]
        # NumPy knows no bfloat16.
        wide = chosen.float() if chosen.dtype is torch.bfloat16 else chosen
        values = wide.cpu().numpy().astype(self.dtype)
        if known is not None:
            values[..., ~known] = self.nodata
        return values


def answers_for(model: PixelModel, kind: str) -> Answers:
    """The smallest types that hold a model's answers.

    Raises:
        ArgumentError: Logits of several views, which are averaged as probabilities.
    """
    if kind == "classes":
        # One value stays free for what is not known: 256 classes need 16 bits.
        small = model.classes <= 255
        return Answers(kind, 0, "uint8" if small else "uint16", 255 if small else 65535)
    if kind == "logits":
        if model.views.count > 1:
            raise ArgumentError(
                "Views are averaged in probability, so there are no logits to write; use "
                "write='probabilities', or tta='none' and one scale."
            )
        dtype = "float64" if model.dtype is torch.float64 else "float32"
        return Answers(kind, model.channels, dtype, float("nan"))
    return Answers(kind, model.channels, "float16", float("nan"))
