"""Checkpoints of other libraries, brought over exactly or refused with the reason."""

from .smp import from_smp

__all__ = ["from_smp"]
