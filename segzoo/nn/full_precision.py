"""Computing with all the digits that there are, inside anybody's autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A block in which autocast rounds nothing.

    Not every device has an autocast to switch off: on the meta device, where shapes are computed
    without values, merely asking for it raises.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
