"""Activation checkpointing: what a module keeps for the backward pass is computed again instead.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, by torch's own
``torch.utils.checkpoint``. That alone would count each batch twice in the running statistics of
batch normalisation; here a module runs again on copies of its buffers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .graph_capture import in_export


class _BuffersAsBefore(AbstractContextManager[None]):
    """A module's buffers are what they were when this was made; afterwards, what they are now.

    Entered once for each backward pass, of which a graph that is retained may see several.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = [
            (owner, name, buffer.clone())
            for owner in module.modules()
            for name, buffer in owner.named_buffers(recurse=False)
        ]
        self._now: list[Tensor] = []

    def __enter__(self) -> None:
        self._now = [getattr(owner, name) for owner, name, _ in self._before]
        for owner, name, before in self._before:
            setattr(owner, name, before.clone())

    def __exit__(self, *error: object) -> None:
        for (owner, name, _), now in zip(self._before, self._now, strict=True):
            setattr(owner, name, now)


def recomputed(module: nn.Module, *inputs: Any) -> Tensor:
    """``module(*inputs)``, keeping the inputs alone for the backward pass.

    Output, gradients and buffers are those of the plain call, and dropout drops the same again. A
    compiler runs again what it recorded, where buffers are inputs and outputs; an exported graph
    keeps nothing anyway.
    """
    result: object
    if in_export():
        result = module(*inputs)
    elif torch.compiler.is_compiling():
        result = checkpoint(module, *inputs, use_reentrant=False)
    else:
        contexts = nullcontext(), _BuffersAsBefore(module)
        result = checkpoint(module, *inputs, use_reentrant=False, context_fn=lambda: contexts)
    assert isinstance(result, Tensor)
    return result
