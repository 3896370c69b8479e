"""A short training of a toy model."""

from __future__ import annotations

import torch

import segzoo

from .killing import outcome
from .toys import Blobs, toy_model

RECIPE = segzoo.Recipe(epochs=2, batch_size=4)


def data(**options):
    return Blobs(8, **options), Blobs(3, seed=1, **options)


def train(out, recipe=RECIPE, *, model=None, given=None, **options):
    return segzoo.train(
        model or toy_model(), given or data(), out=out, recipe=recipe, device="cpu", **options
    )


def state_of(out):
    return torch.load(out / "training" / "state.pt", weights_only=True)


def assert_same(one, other):
    (weights, rows), (others, other_rows) = outcome(one), outcome(other)
    assert rows == other_rows
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
