"""What the tests of picture files share: values of any type, and packages that are missing."""

import sys

import numpy as np

RNG = np.random.default_rng(0)
SHAPE = (37, 53)


def values(dtype, bands=1):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.normal(size=(*SHAPE, bands)).astype(kind)
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max, (*SHAPE, bands), dtype=kind, endpoint=True)


def planes(array):
    return array.transpose(2, 0, 1)


def without(monkeypatch, *names):
    """As if packages were not installed."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
