"""The precision that optimize computes in: by name, by measuring, and with a word where it is slow."""

import copy
import warnings

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, OptimizationError, UnknownNameError
from segzoo.inference.optimize import dtypes
from segzoo.timing import Timing

from ..helpers import randomise, tiny_unet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = tiny_unet()
    randomise(model)
    return model.eval()


@pytest.fixture
def example():
    return torch.nn.functional.interpolate(
        torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(1)), scale_factor=8
    )


def clocked(monkeypatch, **milliseconds):
    """As if each call, by name, took so long."""
    monkeypatch.setattr(
        dtypes, "in_turn", lambda calls, **_: {n: Timing((milliseconds[n],)) for n in calls}
    )


def test_a_name_stands_for_a_dtype(model, example):
    fast = segzoo.optimize(model, dtype="bfloat16", example=example, backend="eager")
    assert fast.dtype is torch.bfloat16
    with pytest.raises(UnknownNameError, match="Did you mean bfloat16"):
        segzoo.optimize(model, dtype="bfloat61")
    with pytest.raises(ArgumentError, match="its name, or 'auto', got 16"):
        segzoo.optimize(model, dtype=16)


@pytest.mark.parametrize(("own", "finer"), [("bfloat16", "float16"), ("float32", "float64")])
def test_a_finer_precision_than_the_models_is_had_in_full(model, example, own, finer):
    source = copy.deepcopy(model).to(getattr(torch, own))
    fast = segzoo.optimize(source, dtype=finer, example=example, backend="eager")
    assert next(source.parameters()).dtype is getattr(torch, own)
    image = example.to(getattr(torch, own)).double()
    with torch.no_grad():
        exact = copy.deepcopy(source).double()(image)
    error = (fast(image) - exact).abs().max() / exact.abs().max()
    assert error <= 10 * torch.finfo(fast.dtype).eps


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"float32": 3, "bfloat16": 2, "float16": 1}, torch.float16),
        ({"float32": 3, "bfloat16": 2, "float16": 4}, torch.bfloat16),
        ({"float32": 1, "bfloat16": 2, "float16": 4}, torch.float32),
    ],
)
def test_auto_takes_the_fastest(model, example, monkeypatch, times, chosen):
    monkeypatch.setattr(dtypes, "_AGREEMENT", 0.5)
    clocked(monkeypatch, chosen=1, plain=1, **times)
    fast = segzoo.optimize(model, dtype="auto", example=example, tolerance=1)
    assert fast.dtype is chosen
    report = fast.report().splitlines()[-1]
    assert report.startswith("x dtype ")
    assert f"{str(chosen)[6:]}, of float32 {times['float32']} ms; bfloat16" in report


def test_auto_takes_no_precision_that_changes_classes(model, example, monkeypatch):
    clocked(monkeypatch, float32=9, bfloat16=1, float16=1)
    monkeypatch.setattr(dtypes, "_AGREEMENT", 1.01)
    fast = segzoo.optimize(model, dtype="auto", example=example, tolerance=1)
    assert fast.dtype is torch.float32
    assert "bfloat16: " in fast.report()
    assert "% of the pixels get another class" in fast.report()


def test_auto_does_without_what_cannot_be_had(model, example, monkeypatch):
    def supported(dtype, device):
        if dtype is torch.float16:
            raise ArgumentError("The device cannot. Another sentence.")

    def outputs(self, run, tolerance):
        if self.dtype is torch.bfloat16:
            raise OptimizationError("Too far. Another sentence.")

    monkeypatch.setattr(dtypes, "check_supported", supported)
    monkeypatch.setattr("segzoo.inference.optimize.optimize._Optimizer._check_outputs", outputs)
    fast = segzoo.optimize(model, dtype="auto", example=example)
    assert fast.dtype is torch.float32
    assert fast.report().endswith("bfloat16: Too far; float16: The device cannot")


def test_a_slower_precision_is_computed_in_and_told(model, example, monkeypatch):
    clocked(monkeypatch, chosen=3.0, plain=2.0)
    with pytest.warns(UserWarning, match=r"1\.5 times as long.*bfloat16.*dtype='auto'") as told:
        fast = segzoo.optimize(model, dtype=torch.bfloat16, example=example, backend="eager")
    assert told[0].filename == __file__
    assert fast.dtype is torch.bfloat16
    clocked(monkeypatch, chosen=2.0, plain=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segzoo.optimize(model, dtype=torch.bfloat16, example=example, backend="eager")
