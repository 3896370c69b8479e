"""timm's EfficientNet blocks, part by part, for libraries that number the parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Part:
    """One part of a block.

    Attributes:
        conv: timm's name of the convolution; of the module, where it is squeeze and excitation.
        norm: timm's name of the normalisation behind it, or None for squeeze and excitation.
    """

    conv: str
    norm: str | None


def parts_of(block: nn.Module) -> list[Part]:
    """The parts of a block in the order in which they run."""
    parts: list[Part] = []
    conv = ""
    for name, child in block.named_children():
        if isinstance(child, nn.BatchNorm2d):
            parts.append(Part(conv, name))
        elif isinstance(child, nn.Conv2d):
            conv = name
        elif next(child.parameters(), None) is not None:
            parts.append(Part(name, None))
    return parts


def blocks_of(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The blocks of a :class:`~segzoo.encoders.tapped.Tapped` EfficientNet, with their names."""
    return ((name, item) for name, item in backbone.named_children() if name.startswith("blocks_"))
