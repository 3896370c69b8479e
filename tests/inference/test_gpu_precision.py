"""What only a GPU does, seen without one: how float32 is rounded there."""

import contextlib
import os
import sys

import pytest
import torch
import torch.nn.functional as F

import segzoo
from segzoo.errors import OptimizationError
from segzoo.inference import precision
from segzoo.inference.kernels import checking
from segzoo.inference.optimize import autotune, optimize, verify
from segzoo.inference.optimize.doubled_conv import DoubledConv
from segzoo.inference.optimize.fused_conv import FusedConv
from tests.helpers import ready, tiny_unet

# ---- settings of precision ------------------------------------------------------------------

READ = {
    "cudnn.allow_tf32": lambda: torch.backends.cudnn.allow_tf32,
    "cuda.matmul.allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
    "float32_matmul": torch.get_float32_matmul_precision,
    "benchmark": lambda: torch.backends.cudnn.benchmark,
    "places": lambda: [place.fp32_precision for *_, place in precision._places()],
    "all": lambda: getattr(torch.backends, "fp32_precision", None),
    "all of cudnn": lambda: getattr(torch.backends.cudnn, "fp32_precision", None),
}


def settings():
    values = {}
    for name, read in READ.items():
        with contextlib.suppress(RuntimeError):  # older and newer ones that contradict each other
            values[name] = read()
    return values


def in_a_process(check):
    """Run in a forked process, whose settings nobody shares."""
    child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.__stderr__)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", None),
        ("cudnn.allow_tf32", False),
        ("cuda.matmul.allow_tf32", True),
        ("cudnn.benchmark", True),
        ("medium", None),
        ("fp32_precision", "ieee"),
        ("fp32_precision", "tf32"),
        ("cudnn.fp32_precision", "ieee"),
        ("cudnn.conv.fp32_precision", "ieee"),
        ("cudnn.rnn.fp32_precision", "ieee"),
        ("mkldnn.fp32_precision", "bf16"),
        ("mkldnn.conv.fp32_precision", "tf32"),
        ("cuda.matmul.fp32_precision", "tf32"),
    ],
)
def test_every_setting_is_exact_meanwhile_and_put_back(name, value):
    owner = torch.backends
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part, None)
    if value is not None and not hasattr(owner, last):
        pytest.skip(f"torch {torch.__version__} has no setting torch.backends.{name}")

    def check():
        if name == "medium":
            torch.set_float32_matmul_precision("medium")
        elif value is not None:
            setattr(owner, last, value)
        before = settings()
        with precision.exactly():
            inside = settings()
            for device in ("cpu", "cuda"):
                assert not precision.rounds_float32(torch.device(device))
        assert settings() == before, (before, settings())
        # What could be read before can be read meanwhile: other threads may.
        assert set(before) <= set(inside), (before, inside)
        assert not inside["benchmark"]

    in_a_process(check)


def test_torch_rounds_on_gpus_unless_told_otherwise():
    assert precision.rounds_float32(torch.device("cuda"))
    assert not precision.rounds_float32(torch.device("cpu"))


@pytest.mark.skipif(not precision._places(), reason="torch 2.9 began with these settings")
@pytest.mark.parametrize("exact", [("conv",), ("matmul",), ("conv", "matmul")], ids="+".join)
def test_what_nothing_here_computes_does_not_count(exact):
    """cuDNN's recurrent layers may go on rounding."""

    def check():
        backends = torch.backends
        places = {"conv": backends.cudnn.conv, "matmul": backends.cuda.matmul}
        for name, place in places.items():
            place.fp32_precision = "ieee" if name in exact else "tf32"
        backends.cudnn.rnn.fp32_precision = "tf32"
        assert precision.rounds_float32(torch.device("cuda")) == (len(exact) < len(places))

    in_a_process(check)


@pytest.mark.skipif(not precision._places(), reason="torch 2.9 began with these settings")
def test_a_setting_goes_on_following_a_wider_one():
    def check():
        torch.backends.fp32_precision = "ieee"
        with precision.exactly():
            pass
        torch.backends.fp32_precision = "tf32"
        assert torch.backends.mkldnn.conv.fp32_precision == "tf32"

    in_a_process(check)


# ---- TF32 -----------------------------------------------------------------------------------


def tf32(values):
    """Rounded to 10 bits of mantissa, as a tensor core takes them."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.fixture
def with_tf32(monkeypatch):
    """A machine whose float32 convolutions round their factors while torch allows it."""

    def rounding(convolve):
        def run(x, weight, *arguments, **options):
            if torch.backends.cudnn.allow_tf32 and x.dtype is torch.float32:
                x, weight = tf32(x), tf32(weight)
            return convolve(x, weight, *arguments, **options)

        return run

    monkeypatch.setattr(F, "conv2d", rounding(F.conv2d))
    monkeypatch.setattr(F, "conv_transpose2d", rounding(F.conv_transpose2d))
    monkeypatch.setattr(autotune, "_FOUND", {})
    for module in (autotune, verify):
        monkeypatch.setattr(
            module, "rounds_float32", lambda device: torch.backends.cudnn.allow_tf32
        )
    # oneDNN and our own kernels do not round.
    monkeypatch.setattr(FusedConv, "choices", lambda self, x: ["torch"])
    monkeypatch.setattr(DoubledConv, "choices", lambda self, x: ["plain", "transposed"])


def test_optimising_where_float32_is_rounded(with_tf32):
    torch.manual_seed(0)
    model = ready(tiny_unet())
    image = torch.rand(3, 3, 64, 96)
    fast = segzoo.optimize(model, backend="eager", example=image)
    report = fast.report()
    assert "x rewrite decoder" in report
    assert "transposed" in report
    with torch.no_grad(), precision.exactly():
        torch.testing.assert_close(fast(image), model(image), atol=1e-5, rtol=1e-5)


def test_a_worse_rounding_than_the_plain_models_is_refused(with_tf32, monkeypatch):
    def coarse(name, body, image):
        for values in [*body.parameters(), *body.buffers()]:
            values.data = values.bfloat16().to(values.dtype)
        return body

    monkeypatch.setattr(optimize, "make_backend", coarse)
    with pytest.raises(OptimizationError, match="the plain model's"):
        segzoo.optimize(ready(tiny_unet()), backend="eager", example=torch.rand(1, 3, 64, 64))


def test_a_kernel_may_round_where_torch_does(monkeypatch):
    kind = (checking.ConvRelu, (16, 16))
    weights, maps = checking.trial(*kind)
    exact = checking.by_torch(*kind, weights, maps)
    rounded = checking.by_torch(*kind, [tf32(w) for w in weights], [tf32(maps[0])])
    assert checking.compared(exact, *kind, weights, maps) is None
    assert "its error" in checking.compared(rounded, *kind, weights, maps)
    error = (rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < checking.FACTOR * checking.TF32_ROUNDING


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_no_memory_to_try_a_kernel_is_not_remembered(monkeypatch, kind):
    kernel = checking.ConvRelu(torch.zeros(16, 16, 3, 3), None)
    monkeypatch.setattr(checking, "usable", lambda device, dtype: None)
    checking._checked.cache_clear()

    def fail(*arguments):
        raise kind("CUDA error: out of memory")

    monkeypatch.setattr(checking, "made", fail)
    assert "could not be tried: CUDA error: out" in checking.self_check(kernel)
    monkeypatch.setattr(checking, "usable", lambda device, dtype: "another reason")
    assert checking.self_check(kernel) == "another reason"
    checking._checked.cache_clear()
