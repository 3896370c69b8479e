"""Checkpoints of other libraries, brought over exactly or refused with the reason."""

from .fastai import from_fastai

__all__ = ["from_fastai"]
