"""The step by which a feature pyramid goes down: a map from below, added to the encoder's own."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import resize


class Lateral(nn.Module):
    """An encoder's map, projected, plus the map from below, resized to it.

    The building block of Lin et al., "Feature Pyramid Networks for Object Detection", 2017,
    section 3, figure 3.

    Args:
        project: Brings the encoder's map to the pyramid's width; of the same height and width.
        interpolation: How the map from below is resized.
    """

    def __init__(self, project: nn.Module, *, interpolation: str) -> None:
        super().__init__()
        self.project = project
        self.interpolation = interpolation

    def forward(self, skip: Tensor, below: Tensor | None = None) -> Tensor:
        """The maps ``(N, C, H, W)`` and ``(N, width, h, w)`` -> ``(N, width, H, W)``."""
        own: Tensor = self.project(skip)
        if below is None:
            return own
        return resize(below, (skip.shape[-2], skip.shape[-1]), mode=self.interpolation) + own
