"""Whether torch is recording the operations of a forward instead of only running them."""

from __future__ import annotations

import torch

#: torch 2.6 cannot tell an export from a compilation.
_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def in_graph() -> bool:
    """Whether a graph is being recorded, by export, trace or compilation."""
    return _tracing() or torch.compiler.is_compiling()


def in_export() -> bool:
    """Whether a graph is being recorded that leaves this process, and has to serve every size.

    A compiled graph is guarded by the sizes that it was made for; such a one is not.
    """
    return _tracing() or bool(_exporting())


def _tracing() -> bool:
    # torch does not type this function.
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing
