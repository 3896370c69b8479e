"""What the tests of picture files share: values of any type, and packages that are missing."""

import numpy as np

from segzoo import packages

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
    real = packages.importlib.import_module

    def import_module(name, *rest):
        if name in names:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(packages.importlib, "import_module", import_module)
