"""From segmentation_models_pytorch: the same logits to the last bit, or a refusal."""

from .convert import from_smp

__all__ = ["from_smp"]
