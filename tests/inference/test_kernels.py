"""The kernels without a GPU: in Triton's interpreter, compiled ahead of time, and refused."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from packaging.version import Version
from torch import nn

from benchmarks.kernel_compiling import (
    SHARED,
    Launches,
    compiled,
    on_a_card_without_one,
    optimized,
)
from segzoo.errors import ArgumentError, InputError
from segzoo.inference.kernels import (
    ConvRelu,
    ConvReluHead,
    DoubleConcatConv,
    ImageConv,
    self_check,
    usable,
)
from segzoo.inference.optimize import autotune, dtypes
from segzoo.inference.optimize.fused_conv import FusedConv, Geometry

from ..helpers import assert_near, reference, skip_without_interpreter, tiny_unet

ROOT = Path(__file__).parents[2]


def test_in_the_interpreter():
    skip_without_interpreter()
    command = [sys.executable, "-m", "pytest", "-q", "tests/interpreted_kernels.py"]
    result = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def of_the_reference():
    """The reference model as it would be optimised on a card, and what Triton would compile."""
    return optimized(reference(), torch.rand(1, 3, 64, 64))


def test_optimising_the_reference_compiles_few_kernels(of_the_reference):
    """A kernel takes one to two seconds: see benchmarks/results/kernel_compiling.json."""
    _, launches = of_the_reference
    assert len(launches.kernels) <= 18, [kernel.widths for kernel in launches.kernels]
    assert {kernel.name for kernel in launches.kernels} == {"conv", "head", "image", "pool"}
    for kernel in launches.kernels:  # arithmetic is left to libraries
        widths = {"FULL": 0, **dict(kernel.constants)}
        assert max(widths["FULL"], widths.get("SMALL", 0)) <= 64, kernel.widths


def test_a_card_is_not_asked_how_quick_this_processor_is():
    """One that is slow in 16 bits would compute in float32."""
    model = tiny_unet(decoder_channels=(16, 16)).eval()
    with mock.patch.object(dtypes, "_times_as_long", return_value=7.0):
        _, launches = optimized(model, torch.rand(1, 3, 16, 16), torch.bfloat16)
    kinds = {kind for kernel in launches.kernels for kind in kernel.pointers}
    assert kinds == {"*bf16", "*u8"}


def test_a_new_shape_compiles_nothing(of_the_reference):
    fast, launches = of_the_reference
    known = dict(launches.kernels)
    with on_a_card_without_one(launches), torch.no_grad():
        for shape in ((2, 3, 64, 96), (1, 3, 65, 97)):
            image = torch.rand(shape)
            assert_near(fast(image), reference()(image))
    assert launches.kernels == known
    # Nor are numbers that change with a shape part of what is compiled.
    pytest.importorskip("triton")
    from segzoo.inference.kernels import launching

    if not launching.INTERPRETED:
        for function in launching.KERNELS.values():
            free = {item.name for item in function.params if item.do_not_specialize}
            assert free == {"batch", "height", "width"}


def test_of_an_image_the_kernel_of_windows_is_taken():
    """A convolution of few channels, whatever its window; others are left to libraries."""
    for weight, geometry, kernels in (
        ((16, 3, 3, 3), Geometry(), {"image"}),
        ((96, 3, 4, 4), Geometry((4, 4), (0, 0)), {"image"}),
        ((16, 16, 3, 3), Geometry(), {"conv"}),
        ((64, 16, 7, 7), Geometry((2, 2), (3, 3)), set()),
        ((16, 3, 3, 3), Geometry(dilation=(2, 2)), set()),
        ((15, 3, 3, 3), Geometry(groups=5), set()),
    ):
        launches = Launches()
        conv = FusedConv(torch.randn(weight), torch.randn(weight[0]), geometry, act="relu")
        x = torch.randn(1, weight[1] * geometry.groups, 12, 20)
        wanted = conv(x)
        with on_a_card_without_one(launches), torch.no_grad():
            autotune.choose(body := nn.Sequential(conv), x, timed=False)
            torch.testing.assert_close(body(x), wanted, rtol=1e-5, atol=1e-4)
        assert {kernel.name for kernel in launches.kernels} == kernels, weight


@pytest.mark.parametrize(("name", "tried"), [("auto", 2), ("compile", 1)])
def test_without_a_clock_one_tile_is_compiled(name, tried):
    launches = Launches()
    body = torch.nn.Sequential(FusedConv(torch.ones(16, 16, 3, 3), None, Geometry(), act="relu"))
    with on_a_card_without_one(launches), torch.no_grad():
        autotune.choose(body, torch.rand(1, 16, 8, 8), timed=name == "auto")
    assert len(launches.kernels) == tried


@pytest.mark.parametrize(
    ("capability", "widths", "dtype"),
    [
        (80, "conv 0-32-32 8x8", torch.bfloat16),
        (90, "conv 32-0-16 8x8", torch.float16),
        (86, "conv 32-0-16 8x8", torch.float32),
        (90, "head 16-16-3 8x8 classes", torch.bfloat16),
        (90, "image 3-64 8x16", torch.bfloat16),
        (120, "pool 64 8x8", torch.bfloat16),
    ],
)
def test_they_compile_for_a_gpu(of_the_reference, capability, widths, dtype, tmp_path, monkeypatch):
    triton = pytest.importorskip("triton")
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    if not (tools / "ptxas").exists() or not (tools / "cuobjdump").exists():
        pytest.skip(f"Triton {triton.__version__} comes without NVIDIA's tools here: {tools}")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = {kernel.widths: kernel for kernel in of_the_reference[1].kernels}
    made = compiled(found[widths].of(dtype), capability)
    assert made["shared_kib"] <= SHARED[capability]
    assert made["stack_bytes"] == 0, made  # nothing is spilled
    assert made["tensor_cores"] == ("pool" not in widths), made
    if Version(triton.__version__) >= Version("3.5"):  # 3.4 reads maps of 16 channels in parts
        assert made["wide_loads"], made


def test_reasons_without_a_gpu():
    kernel = ConvRelu(torch.zeros(4, 3, 3, 3), None)
    assert "the device is cpu" in usable(torch.device("cpu"), torch.bfloat16)
    assert "not in float64" in usable(torch.device("cuda"), torch.float64)
    assert self_check(kernel) == usable(torch.device("cpu"), torch.float32)
    with pytest.raises(InputError, match="for NVIDIA GPUs"):
        kernel(torch.zeros(1, 3, 4, 4))
    if not torch.cuda.is_available():
        assert usable(torch.device("cuda"), torch.float16) == "torch finds no CUDA device"


def test_reasons_of_an_old_gpu_and_of_triton(monkeypatch):
    from segzoo.inference.kernels import availability

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    device = torch.device("cuda")
    assert "need compute capability 8.0, this GPU has 7.5" in usable(device, torch.float16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setitem(sys.modules, "triton", None)
    availability._triton.cache_clear()
    assert "Triton cannot be imported" in usable(device, torch.float16)
    monkeypatch.setitem(sys.modules, "triton", type("Old", (), {"__version__": "3.1.0"}))
    availability._triton.cache_clear()
    assert usable(device, torch.float16) == "the kernels need Triton 3.4, this is 3.1.0"
    availability._triton.cache_clear()


def test_only_exact_doubling_fits():
    kernel = DoubleConcatConv(torch.zeros(4, 5, 3, 3), None, 3, 2)
    x, skip = torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 8, 10)
    assert kernel.why_not(x, skip, (8, 10)) is None
    assert "is not the double" in kernel.why_not(x, skip, (7, 10))
    assert "is not the double" in kernel.why_not(x, skip[..., :9], (8, 9))
    assert "got no skip" in kernel.why_not(x, None, (8, 10))
    assert "expected a skip of shape" in kernel.why_not(x, skip[..., :9], (8, 10))
    assert "expected 3 channels" in kernel.why_not(x[:, :2], skip, (8, 10))
    assert "not empty" in kernel.why_not(x[:0], skip, (8, 10))
    assert "the skip torch.float16" in kernel.why_not(x, skip.half(), (8, 10))
    with pytest.raises(InputError, match="expected a skip of shape"):
        kernel(x, skip[..., :9])
    large = torch.zeros(1, device="meta").expand(1, 3, 2**15, 2**15)
    assert "over 2^31" in ConvRelu(torch.zeros(4, 3, 3, 3, device="meta"), None).why_not(large)


def test_weights_that_do_not_belong_together():
    with pytest.raises(ArgumentError, match=r"Expected a weight \(channels, 6, 3, 3\)"):
        DoubleConcatConv(torch.zeros(4, 5, 3, 3), None, 3, 3)
    with pytest.raises(ArgumentError, match="in_channels must be at least 1"):
        DoubleConcatConv(torch.zeros(4, 5, 3, 3), None, 0, 5)
    with pytest.raises(ArgumentError, match="Expected a bias"):
        ConvRelu(torch.zeros(4, 5, 3, 3), torch.zeros(5))
    with pytest.raises(ArgumentError, match="padding 1"):
        ConvRelu.from_conv(nn.Conv2d(4, 4, 3))
    with pytest.raises(ArgumentError, match=r"1 to 15, height, width\), got \(4, 16, 3, 3\)"):
        ImageConv.from_conv(nn.Conv2d(16, 4, 3))
    for options, word in (
        ({"dilation": 2}, "not dilated"),
        ({"groups": 3}, "zero padding"),
        ({"padding": "same"}, "zero padding"),
    ):
        with pytest.raises(ArgumentError, match=word):
            ImageConv.from_conv(nn.Conv2d(3, 6, 3, **options))
    with pytest.raises(ArgumentError, match="33 classes"):
        ConvReluHead(torch.zeros(4, 4, 3, 3), None, torch.zeros(33, 4, 3, 3), None)


def test_an_exported_program_names_the_operator():
    conv = nn.Conv2d(5, 4, 3, padding=1)
    kernel = DoubleConcatConv.from_conv(conv, 3, 2)
    maps = (torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 8, 10))
    program = torch.export.export(kernel, maps)
    assert "segzoo.double_concat_conv" in program.graph_module.code
    (out,) = [node for node in program.graph.nodes if node.op == "output"]
    assert out.args[0][0].meta["val"].shape == (1, 4, 8, 10)
    assert not kernel.state_dict()
