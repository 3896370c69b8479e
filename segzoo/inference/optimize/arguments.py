"""What optimize refuses to begin with."""

from __future__ import annotations

from ..._compat import hooks_of
from ...architectures.base import SegmentationModel
from ...errors import ArgumentError, OptimizationError
from ...nn.finite import first_infinite
from .trace import collects_maps


def check_model(model: object) -> None:
    """Raise unless it is a model that can be optimised.

    Raises:
        ArgumentError: No segzoo model, one in training mode, or with hooks.
        OptimizationError: Its weights are not finite.
    """
    if not isinstance(model, SegmentationModel):
        raise ArgumentError(
            f"optimize takes a segzoo model, got {type(model).__name__}. "
            "segzoo.convert brings over models of other libraries."
        )
    if any(module.training for module in model.modules()):
        raise ArgumentError("The model is in training mode; call model.eval() first.")
    for name, module in model.named_modules():
        if not all(collects_maps(hook) for hooks in hooks_of(module) for hook in hooks.values()):
            raise ArgumentError(
                f"{name or 'The model'} has hooks, which would be lost. Remove them first."
            )
    infinite = first_infinite(model.state_dict().items())
    if infinite is not None:
        raise OptimizationError(
            f"The model's weights are not finite: NaN or infinity in {infinite}. Its outputs would "
            "be useless; optimise a model from before its training diverged."
        )
