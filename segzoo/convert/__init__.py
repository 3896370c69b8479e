"""Checkpoints of other libraries, brought over exactly or refused with the reason."""
