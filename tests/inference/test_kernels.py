"""The kernels without a GPU: in Triton's interpreter, compiled ahead of time, and refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from segzoo.errors import ArgumentError, InputError
from segzoo.inference.kernels import ConvRelu, ConvReluHead, DoubleConcatConv, self_check, usable
from segzoo.inference.kernels.operators import out_block
from segzoo.inference.kernels.packing import padded

from ..helpers import skip_without_interpreter

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


def options(kernel, widths, tile, dtype, precision):
    """The constants that a launch gives a kernel."""
    tiled = {"TILE_H": tile.height, "TILE_W": tile.width, "DEPTH": tile.depth}
    if kernel == "conv":
        small, full, outs = widths
        return tiled | {
            "SMALL": small,
            "FULL": full,
            "CHANNELS": outs,
            "PADDED_SMALL": padded(small),
            "PADDED_FULL": padded(full),
            "OUTS": padded(outs),
            "BLOCK": out_block(outs, dtype),
            "RELU": True,
            "PRECISION": precision,
        }
    full, middle, classes = widths
    return tiled | {
        "FULL": full,
        "CLASSES": classes,
        "PADDED_FULL": padded(full),
        "MIDDLE": padded(middle),
        "OUTS": padded(classes),
        "PRECISION": precision,
    }


@pytest.mark.parametrize(
    ("capability", "kernel", "widths", "dtype", "precision"),
    [
        (80, "conv", (32, 0, 16), torch.bfloat16, "ieee"),
        (80, "conv", (0, 32, 32), torch.float32, "tf32"),
        (80, "head", (16, 16, 11), torch.bfloat16, "ieee"),
        (90, "conv", (32, 0, 16), torch.float16, "ieee"),
        (90, "conv", (0, 16, 16), torch.bfloat16, "ieee"),
        (80, "conv", (0, 16, 16), torch.float32, "ieee"),
    ],
)
def test_they_compile_for_a_gpu(
    capability, kernel, widths, dtype, precision, tmp_path, monkeypatch
):
    triton = pytest.importorskip("triton", minversion="3.3")  # 3.2 has another interface for this
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from segzoo.inference.kernels import triton_code, tuning

    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    if not ptxas.exists():
        pytest.skip(
            f"Triton {triton.__version__} comes without NVIDIA's assembler here: no {ptxas}"
        )
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tiles = tuning.CONV_TILES if kernel == "conv" else tuning.HEAD_TILES
    outs = out_block(widths[2], dtype)
    tile = tuning.fitting(tiles, outs, dtype, precision, (capability // 10, 0))[-1]
    function = getattr(triton_code, f"{kernel}_kernel")
    constants = options(kernel, widths, tile, dtype, precision)
    pointer = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}[dtype]
    numbers = ("batch", "height", "width")
    source = ASTSource(
        function,
        {
            name: "constexpr" if name in constants else "i32" if name in numbers else pointer
            for name in function.arg_names
        },
        constants,
        {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(function.arg_names)
            if name not in constants and name not in numbers
        },
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tile.warps, "num_stages": 1},
    )
    # What a consumer card of compute capability 8.6 has for one program is 99 KiB.
    assert compiled.metadata.shared <= 99 * 1024
    ptx = compiled.asm["ptx"]
    exact = dtype == torch.float32 and precision == "ieee"
    assert ("mma" in ptx) != exact  # tensor cores, but for exact float32
    assert "ld.global.v4" in ptx or "v4.b32" in ptx  # 16 bytes at a time
    if kernel == "head":
        assert ptx.count("bar.sync") >= 2
    path = tmp_path / "kernel.ptx"
    path.write_text(ptx)
    architecture = f"sm_{capability}{'a' if capability == 90 else ''}"
    said = subprocess.run(
        [ptxas, "-v", f"--gpu-name={architecture}", path, "-o", tmp_path / "kernel.cubin"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    (spilled,) = re.findall(r"(\d+) bytes spill stores", said)
    assert int(spilled) <= 32, said  # 0 with Triton 3.8


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
    assert usable(device, torch.float16) == "the kernels need Triton 3.2, this is 3.1.0"
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
