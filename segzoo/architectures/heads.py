"""Answers beside the mask, for training: they cost nothing where a model only predicts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..config import Classification
from ..nn.layers import ConvNormAct, zero_bias


class Outputs(NamedTuple):
    """What :meth:`segzoo.SegmentationModel.forward_heads` gives.

    Attributes:
        logits: ``(N, classes, H, W)``, what ``model(image)`` gives.
        auxiliary: More logits of that shape: one entry for each step in ``deep_supervision``, by
            its name, and ``"encoder"`` where there is an ``auxiliary_stride``.
        image_logits: ``(N, classification.classes)``, or None.
    """

    logits: Tensor
    auxiliary: dict[str, Tensor]
    image_logits: Tensor | None


class ClassificationHead(nn.Module):
    """Pooling, dropout and a linear layer on the encoder's deepest map.

    The same as the head that ``aux_params`` adds in segmentation_models_pytorch.
    """

    def __init__(self, channels: int, options: Classification) -> None:
        super().__init__()
        pool = nn.AdaptiveAvgPool2d if options.pooling == "avg" else nn.AdaptiveMaxPool2d
        self.pool = pool(1)
        self.dropout = nn.Dropout(options.dropout)
        self.linear = nn.Linear(channels, options.classes)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` -> ``(N, classes)``."""
        logits: Tensor = self.linear(self.dropout(self.pool(x).flatten(1)))
        return logits


class FCNHead(nn.Module):
    """Two convolutions from an encoder's map to logits.

    The auxiliary head of Zhao et al., "Pyramid Scene Parsing Network", 2017, section 4, in the
    form of Long et al., "Fully Convolutional Networks for Semantic Segmentation", 2015: a 3x3
    convolution to a quarter of the channels, dropout, 1x1 to the classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 1)
        self.conv = ConvNormAct(channels, hidden)
        self.dropout = nn.Dropout2d(0.1)
        self.logits = to_logits(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, h, w)`` -> ``(N, classes, h, w)``."""
        logits: Tensor = self.logits(self.dropout(self.conv(x)))
        return logits


def to_logits(channels: int, classes: int) -> nn.Conv2d:
    """A 1x1 convolution to logits, which begins as segmentation heads do."""
    conv = nn.Conv2d(channels, classes, 1)
    nn.init.xavier_uniform_(conv.weight)
    zero_bias(conv)
    return conv


def module_key(step: str) -> str:
    """A step's name as a module's: without dots, which torch keeps for itself."""
    return step.replace(".", "_")


def encoder_map(strides: Sequence[int], stride: int) -> int | None:
    """The index of the deepest map of that stride, or None where there is none."""
    found = [i for i, item in enumerate(strides) if item == stride]
    return found[-1] if found else None


@contextmanager
def outputs_of(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What these modules give while this thread is in the block, by name.

    The decoder's own code knows nothing of deep supervision: what leaves a step is looked at.
    """
    found: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def keep(name: str, output: Any) -> None:
        if threading.get_ident() == thread:
            found[name] = output

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, module in modules.items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
