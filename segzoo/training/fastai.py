"""For those who train with fastai: its parameter groups for our models. fastai is not imported."""

from __future__ import annotations

from torch import nn

from ..architectures.base import SegmentationModel
from ..errors import ArgumentError


def fastai_splitter(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameter groups of a model for ``fastai.learner.Learner(..., splitter=...)``.

    Stem and early stages, late stages, decoder and head: for a ResNet the groups that fastai's own
    ``unet_learner`` makes. ``learn.freeze`` then trains the last group alone, and a ``slice`` of
    learning rates is spread over the three. A group without parameters is left out.

    Raises:
        ArgumentError: The model is not one of segzoo's.
    """
    if not isinstance(model, SegmentationModel):
        raise ArgumentError(
            f"fastai_splitter is for a segzoo model, got {type(model).__name__}. Leave splitter "
            "out for another model."
        )
    return [group for group in model.parameter_split() if group]
