"""Learning rate and momentum as functions of the step alone: nothing to save, nothing to lose."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: The rate begins at its peak over the first and ends at its peak over the second.
_START, _END = 25.0, 2.5e5
#: Momentum falls while the rate rises, and the other way round.
_HIGH, _LOW = 0.95, 0.85


@dataclass(frozen=True)
class OneCycle:
    """One cycle: a rise and a fall along cosines (Smith and Topin, 2018, "Super-Convergence").

    The same curve as ``torch.optim.lr_scheduler.OneCycleLR`` has by default.

    Args:
        steps: Steps of the cycle, 1 or more.
        warmup: Share of the steps on which the rate rises.
    """

    steps: int
    warmup: float = 0.3

    def at(self, step: int) -> tuple[float, float]:
        """The rate as a share of its peak, and the momentum, for step 0, 1, ..."""
        top = self.warmup * self.steps - 1
        if step <= top and top > 0:
            share = step / top
            return _cosine(1 / _START, 1.0, share), _cosine(_HIGH, _LOW, share)
        last = self.steps - 1
        share = min((step - top) / max(last - top, 1), 1.0) if top > 0 else step / max(last, 1)
        return _cosine(1.0, 1 / _END, share), _cosine(_LOW, _HIGH, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
