"""Whether torch is recording the operations of a forward instead of only running them."""

from __future__ import annotations

import torch
from torch import Tensor, fx


def in_graph() -> bool:
    """Whether a graph is being recorded, by export, trace or compilation."""
    return _tracing() or torch.compiler.is_compiling()


def in_export() -> bool:
    """Whether a graph is being recorded that leaves this process."""
    return _tracing() or torch.compiler.is_exporting()


def serves_other_sizes(x: Tensor) -> bool:
    """Whether what is recorded of a map has to hold for other heights and widths too.

    Not of a compiled graph, which is guarded by the sizes that it was made for.
    """
    if isinstance(x, fx.Proxy) or any(isinstance(side, torch.SymInt) for side in x.shape[-2:]):
        return True
    # Under dynamo a symbolic side passes for an int, so an export is taken to be for other sizes
    # although it may be for one: its graph is right either way, and one for a single size is not.
    return _tracing() or (torch.compiler.is_exporting() and torch.compiler.is_dynamo_compiling())


def _tracing() -> bool:
    tracing: bool = torch.jit.is_tracing()
    return tracing
