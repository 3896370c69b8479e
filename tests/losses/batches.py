"""What the losses are tried on."""

from __future__ import annotations

import torch

VOID = 255
ALL = {"focal": 1.0, "boundary": 1.0, "lovasz": 1.0}


def batch(classes=4, void=True, size=(2, 9, 7), dtype=torch.float64):
    """Logits and a target in which class 3 is absent and a corner is void."""
    generator = torch.Generator().manual_seed(1)
    n, h, w = size
    logits = torch.randn(n, classes, h, w, generator=generator, dtype=dtype)
    target = torch.randint(0, max(classes - 1, 2), size, generator=generator)
    if void:
        target[0, :4] = VOID
        target[1, 0, 0] = VOID
    return logits.requires_grad_(), target
