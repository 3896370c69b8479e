"""What a batch normalisation and its ReLU gave is computed again for the backward pass, not kept.

Of a convolution, its normalisation and its ReLU autograd keeps two maps: what the convolution gave,
which the normalisation's gradient needs, and what the ReLU gave, which the next convolution's needs
and its own. The second follows from the first by a few operations for each value, where running a
block again (:mod:`.activation_checkpoint`) repeats its convolutions. So the first is kept alone.
(Rota Bulò, Porzi and Kontschieder, "In-Place Activated BatchNorm for Memory-Optimized Training of
DNNs", 2018, keep the other one alone, for which the activation has to be one that can be inverted.)

torch asks hooks what to keep in place of a tensor (``torch.autograd.graph.saved_tensors_hooks``).
Here they know the maps that can be had again, and give what they can be had from; everything else
is kept as it is.
"""

from __future__ import annotations

import contextvars
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._compat import version_of
from .full_precision import full_precision
from .graph_capture import in_graph
from .upsample_conv import runs_as_written

_ACTIVE: contextvars.ContextVar[RecomputedNorms | None] = contextvars.ContextVar(
    "recomputed_norms", default=None
)


@dataclass
class Again:
    """What is kept in place of a map.

    Attributes:
        before: The map before the normalisation, which is kept anyway.
        arguments: The normalisation's, as they were.
        asked: How often autograd wanted to keep the map.
    """

    before: Tensor
    arguments: dict[str, Any]
    asked: int = 0
    _map: Tensor | None = None
    _left: int = 0

    def map(self) -> Tensor:
        """The map; computed once, and held until all that wanted to keep it have had it."""
        if self._map is None:
            with torch.no_grad(), full_precision(self.before.device):
                self._map = F.batch_norm(self.before, **self.arguments).relu_()
            self._left = self.asked
        found = self._map
        self._left -= 1
        if self._left <= 0:
            self._map = None
        return found


@dataclass
class _Known:
    """A map that can be had again, as long as it is there."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    version: int | None
    again: Again
    alive: weakref.ref[Tensor] = field(repr=False)


class RecomputedNorms:
    """Meanwhile maps behind a :func:`normalised` are not kept for the backward pass.

    ::

        with RecomputedNorms():
            logits = decoder(maps)

    Outputs, gradients and running statistics are those of the plain run; on a CPU to the bit. Hooks
    of the same kind that are active outside do not see what is kept inside: torch asks the
    innermost ones only.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        # By methods of this very object, looked up when they are called.
        self._hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: self.keep(tensor), lambda kept: self.give(kept)
        )
        self._token: contextvars.Token[RecomputedNorms | None] | None = None

    def __enter__(self) -> RecomputedNorms:
        self._token = _ACTIVE.set(self)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        assert self._token is not None
        _ACTIVE.reset(self._token)

    def knows(self, normalised: Tensor, before: Tensor, norm: nn.BatchNorm2d) -> None:
        """Remember what a map is made of, before a ReLU changes it in place."""
        batch = norm.training or norm.running_mean is None
        arguments = {
            # Copies of a few numbers: what the forward saw, whatever happens to them meanwhile.
            "running_mean": None if batch else _copy(norm.running_mean),
            "running_var": None if batch else _copy(norm.running_var),
            "weight": _copy(norm.weight),
            "bias": _copy(norm.bias),
            "training": batch,
            "momentum": 0.0,
            "eps": norm.eps,
        }
        address = normalised.untyped_storage().data_ptr()
        version = version_of(normalised)
        known = self._known

        def forget(gone: weakref.ref[Tensor]) -> None:
            # Another map may be at that address by now.
            if address in known and known[address].alive is gone:
                del known[address]

        known[address] = _Known(
            tuple(normalised.shape),
            normalised.stride(),
            None if version is None else version + 1,  # the ReLU's
            Again(before.detach(), arguments),
            weakref.ref(normalised, forget),
        )

    def keep(self, tensor: Tensor) -> Tensor | Again:
        """What is kept in place of a tensor."""
        known = self._known.get(tensor.untyped_storage().data_ptr()) if tensor.numel() else None
        same = (
            known is not None
            and tuple(tensor.shape) == known.shape
            and tensor.stride() == known.stride
            and (known.version is None or version_of(tensor) == known.version)
        )
        if known is None or not same:
            return tensor
        known.again.asked += 1
        return known.again

    def give(self, kept: Tensor | Again) -> Tensor:
        """The tensor that something was kept for."""
        return kept.map() if isinstance(kept, Again) else kept


def normalised(x: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
    """``act(norm(x))``; under :class:`RecomputedNorms`, where both allow it, not kept."""
    # A graph that is recorded leaves to its compiler what is kept.
    active = None if in_graph() else _ACTIVE.get()
    out: Tensor = norm(x)
    if (
        active is not None
        and torch.is_grad_enabled()
        and runs_as_written(norm, nn.BatchNorm2d)
        and runs_as_written(act, nn.ReLU)
        and getattr(act, "inplace", False)
    ):
        assert isinstance(norm, nn.BatchNorm2d)
        active.knows(out, x, norm)
    result: Tensor = act(out)
    return result


def _copy(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().clone()
