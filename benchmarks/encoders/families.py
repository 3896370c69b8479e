"""A small architecture of each of timm's modules, found by building them on the meta device."""

from __future__ import annotations

import functools
import itertools

import timm
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from segzoo.encoders import build_on_meta


@functools.cache
def smallest(module: str) -> str:
    """The architecture of a module of timm that makes the fewest weights while it is built.

    Every architecture is begun under a limit on its weights and given up where it passes it; the
    limit grows until something fits. So the large ones cost little, and all of timm takes half a
    minute.
    """
    for limit in itertools.accumulate(itertools.repeat(4), lambda a, b: a * b, initial=10**6):
        best, most = None, limit
        for name in timm.list_models(module=module):
            made = _weights(name, most)
            if made is not None:
                best, most = name, made - 1
        if best is not None:
            return best
    raise AssertionError("the limit grows without end")


class _TooManyError(Exception):
    """Ends a build that is too large."""


def _weights(name: str, most: int) -> int | None:
    """How many weights are made for a feature extractor, its unused head included; None if more."""
    made = 0

    def count(module: nn.Module, key: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += 0 if parameter is None else parameter.numel()
        if made > most:
            raise _TooManyError

    counting = register_module_parameter_registration_hook(count)
    try:
        build_on_meta(lambda: timm.create_model(name, features_only=True))
    except _TooManyError:
        return None
    finally:
        counting.remove()
    return made
