"""The precision that optimize computes in: by name, by measuring, and with a word where it is slow."""

import copy
import warnings

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, OptimizationError, UnknownNameError
from segzoo.inference.optimize import dtypes, optimize
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
    clocked(monkeypatch, chosen=1, plain=1, float32=9, bfloat16=1, float16=1)
    monkeypatch.setattr(dtypes, "_AGREEMENT", 1.01)
    fast = segzoo.optimize(model, dtype="auto", example=example, tolerance=1)
    assert fast.dtype is torch.float32
    assert "bfloat16: " in fast.report()
    assert "% of the pixels get another class" in fast.report()


#: The one is faster but for other programs, the other was lucky once, and less disturbed.
FASTER, LUCKY = Timing((2, 9, 2, 9, 2, 9, 9)), Timing((8, 8, 1, 8, 8, 8, 8))


def test_precisions_are_chosen_by_their_undisturbed_time(model, example, monkeypatch):
    times = {"chosen": FASTER, "plain": LUCKY, "bfloat16": FASTER, "float32": LUCKY}
    monkeypatch.setattr(dtypes, "in_turn", lambda calls, **_: {name: times[name] for name in calls})
    monkeypatch.setattr(dtypes, "_LOWER", (torch.bfloat16,))
    monkeypatch.setattr(dtypes, "_AGREEMENT", 0.5)
    fast = segzoo.optimize(model, dtype="auto", example=example, tolerance=1)
    assert fast.dtype is torch.bfloat16
    assert "of float32 8 ms; bfloat16 2 ms" in fast.report()


def test_so_are_backends(model, example, monkeypatch):
    times = {"eager": LUCKY, "cudagraph": FASTER}
    monkeypatch.setattr(optimize, "to_be_compared", lambda *_: list(times))
    monkeypatch.setattr(optimize, "make_backend", lambda name, body, image: body)
    monkeypatch.setattr(optimize, "in_turn", lambda calls, **_: times)
    assert "x backend cudagraph" in segzoo.optimize(model, example=example).report()


def test_auto_does_without_what_cannot_be_had(model, example, monkeypatch):
    def supported(dtype, device):
        if dtype is torch.float16:
            raise ArgumentError("The device cannot in torch.float16; try torch.float32.")

    def outputs(self, run, dtype, tolerance):
        if dtype is torch.bfloat16:
            raise OptimizationError("Too far: 3.2e-02, allowed are 1.0e-03. Another sentence.")

    monkeypatch.setattr(dtypes, "check_supported", supported)
    monkeypatch.setattr(dtypes, "_times_as_long", lambda *_: 0.5)
    monkeypatch.setattr("segzoo.inference.optimize.optimize._Optimizer._check_outputs", outputs)
    fast = segzoo.optimize(model, dtype="auto", example=example)
    assert fast.dtype is torch.float32
    assert fast.report().endswith(
        "bfloat16: Too far: 3.2e-02, allowed are 1.0e-03; "
        "float16: The device cannot in torch.float16; try torch.float32"
    )


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


def test_a_cpu_that_is_slower_in_16_bits_computes_in_float32(model, example, monkeypatch):
    dtype = torch.bfloat16
    clocked(monkeypatch, chosen=3.0, plain=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is not slow is no reason for a warning
        fast = segzoo.optimize(model, dtype=dtype, example=example)
    assert fast.dtype is dtype
    assert (
        f"torch.float32 inside: a convolution in {dtype} takes 1.5 times as long" in fast.report()
    )
    for shape in ((1, 3, 32, 48), (3, 3, 45, 51)):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        logits = fast(image)
        assert logits.dtype is dtype
        with torch.no_grad():
            exact = copy.deepcopy(model).double()(image.double())
        # One rounding, of the logits, where the cast model rounds at every step.
        assert (logits - exact).abs().max() <= torch.finfo(dtype).eps * exact.abs().max()


def test_a_model_of_16_bits_is_computed_in_float32_too(model, example, monkeypatch):
    clocked(monkeypatch, chosen=3.0, plain=2.0)
    source = copy.deepcopy(model).bfloat16()
    fast = segzoo.optimize(source, example=example.bfloat16())
    assert fast.dtype is next(source.parameters()).dtype is torch.bfloat16
    with torch.no_grad():
        exact = copy.deepcopy(source).double()(example.bfloat16().double())
    error = (fast(example.bfloat16()) - exact).abs().max()
    assert error <= torch.finfo(torch.bfloat16).eps * exact.abs().max()


def test_a_cpu_that_is_faster_in_bfloat16_computes_in_it(model, example, monkeypatch):
    clocked(monkeypatch, chosen=2.0, plain=3.0)
    fast = segzoo.optimize(model, dtype=torch.bfloat16, example=example)
    assert "float32 inside" not in fast.report()
    assert all(item.dtype is torch.bfloat16 for item in fast.buffers() if item.is_floating_point())


def test_auto_makes_no_model_in_a_slower_precision(model, example, monkeypatch):
    clocked(monkeypatch, chosen=3.0, plain=2.0, float32=1)
    fast = segzoo.optimize(model, dtype="auto", example=example)
    assert fast.dtype is torch.float32
    assert "bfloat16: slower than float32 here; float16: slower" in fast.report()
