"""Checkpoints of other libraries, brought over exactly or refused with the reason."""

from .fastai import from_fastai
from .smp.convert import from_smp
from .torchvision import from_torchvision
from .transformers.convert import from_transformers

__all__ = ["from_fastai", "from_smp", "from_torchvision", "from_transformers"]
