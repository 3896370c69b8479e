"""What optimising a model on a GPU compiles with Triton, counted and compiled ahead without one.

    python -m benchmarks.kernel_compiling

``segzoo.optimize`` runs on the CPU with a launch that writes down what would be compiled and
computes the same with torch. Each of these kernels is then compiled for several cards. Processor
seconds are those of Triton and NVIDIA's assembler together; the sum for one card is what optimising
costs there the first time, before Triton's cache has it. Nothing runs on a card, so there are no
times of kernels here. Ends with 1 where a kernel keeps more than a few values in memory for want of
registers, or wants more shared memory than the card has.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import segzoo
from segzoo.inference.kernels import checking, launching, operators
from segzoo.inference.optimize import autotune
from segzoo.inference.optimize.answers import Answers
from segzoo.inference.optimize.fused_conv import TRITON

from .common import write_result

#: Compute capability -> the shared memory that a program may have there, in KiB.
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
#: Bytes of eight registers: as much may lie in memory, in the cache.
STACK = 32
_PACKAGE = "segzoo.inference"
_ASK_FOR_A_GPU = (
    "optimize.fused_conv.usable",
    "optimize.doubled_conv.usable",
    "optimize.fuse_head.usable",
    "optimize.max_pool.usable",
    "optimize.optimize.usable",
    "kernels.operators.usable",
    "kernels.checking.usable",
)
_POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.uint8: "*u8",
}


@dataclass(frozen=True)
class Kernel:
    """What Triton compiles once.

    Attributes:
        name: Of :data:`segzoo.inference.kernels.launching.KERNELS`.
        constants: The values it is compiled for.
        pointers: Types of its tensors.
        warps: Of a program.
    """

    name: str
    constants: tuple[tuple[str, Any], ...]
    pointers: tuple[str, ...]
    warps: int

    def of(self, dtype: torch.dtype) -> Kernel:
        """The same for maps of another type."""
        pointers = [item if item == "*u8" else _POINTERS[dtype] for item in self.pointers]
        constants = dict(self.constants)
        if "PRECISION" in constants:
            constants["PRECISION"] = _precision(dtype)
        if self.name == "conv":
            constants["BLOCK"] = operators.out_block(constants["CHANNELS"], dtype)
        return replace(self, constants=tuple(constants.items()), pointers=tuple(pointers))

    @property
    def widths(self) -> str:
        """Its channels and its tile, for people."""
        known = dict(self.constants)
        names = ("SMALL", "FULL", "CHANNELS", "MIDDLE", "CLASSES")
        tile = f"{known['TILE_H']}x{known['TILE_W']}"
        channels = "-".join(str(known[name]) for name in names if name in known)
        return f"{self.name} {channels} {tile}{' classes' if known.get('ANSWER') else ''}"


class Launches:
    """In place of a launch: computes with torch, and keeps what a card would compile."""

    def __init__(self) -> None:
        self.kernels: dict[Kernel, None] = {}

    def __call__(
        self,
        name: str,
        programs: int,
        tensors: tuple[Tensor, ...],
        sizes: tuple[int, int, int],
        constants: Mapping[str, Any],
        tile: launching.Tile,
    ) -> None:
        """As :func:`segzoo.inference.kernels.launching.launch`."""
        every = tuple(sorted({**constants, **launching.tiled(name, tile)}.items()))
        pointers = tuple(_POINTERS[tensor.dtype] for tensor in tensors)
        self.kernels[Kernel(name, every, pointers, tile.warps)] = None
        _COMPUTE[name](tensors, constants)


def _conv(tensors: tuple[Tensor, ...], constants: Mapping[str, Any]) -> None:
    out, small, full, small_weight, full_weight, bias = tensors
    channels = constants["CHANNELS"]
    total = bias[:channels, None, None].expand_as(out)
    if constants["SMALL"]:
        phases = small_weight[:, : small.shape[1], :channels]
        kernel = small_weight.new_zeros(4, 4, *phases.shape[1:])
        # The inverse of packing.pack_phases.
        for i, phase in enumerate(phases.unflatten(0, (2, 2, 2, 2)).flatten(0, 1)):
            rows, columns = ((3, 1), (2, 0))[i // 2], ((3, 1), (2, 0))[i % 2]
            for row, tap in zip(rows, phase, strict=True):
                kernel[row, list(columns)] = tap
        total = total + F.conv_transpose2d(small, kernel.permute(2, 3, 0, 1), stride=2, padding=1)
    if constants["FULL"]:
        total = total + _taps(full, full_weight, channels)
    out.copy_(total.relu() if constants["RELU"] else total)


def _head(tensors: tuple[Tensor, ...], constants: Mapping[str, Any]) -> None:
    out, full, _, weight, bias, head_weight, head_bias = tensors
    middle, classes = constants["MIDDLE"], constants["CLASSES"]
    between = (_taps(full, weight, middle) + bias[:, None, None]).relu()
    if constants["MERGED"]:  # the first phase of packing.pack_head has all taps
        first = head_weight.unflatten(0, (4, 4))[:3, :3, :, : head_weight.shape[2] // 4]
        head_weight = first.flatten(0, 1)
    logits = _taps(between, head_weight, classes) + head_bias[:classes, None, None]
    out.copy_(logits.argmax(dim=1) if constants["ANSWER"] else logits)


def _image(tensors: tuple[Tensor, ...], constants: Mapping[str, Any]) -> None:
    out, image, packed, bias = tensors
    window, stride, padding = (
        tuple(constants[f"{name}_{side}"] for side in "HW") for name in ("WINDOW", "STRIDE", "PAD")
    )
    values, channels = window[0] * window[1] * image.shape[1], constants["CHANNELS"]
    # The inverse of packing.pack_window.
    weight = packed[:values, :channels].unflatten(0, (*window, -1)).permute(3, 2, 0, 1)
    total = F.conv2d(image, weight, bias[:channels], stride, padding)
    out.copy_(total.relu() if constants["RELU"] else total)


def _pool(tensors: tuple[Tensor, ...], constants: Mapping[str, Any]) -> None:
    out, image = tensors
    out.copy_(F.max_pool2d(image, 3, 2, padding=1))


_COMPUTE = {"conv": _conv, "head": _head, "image": _image, "pool": _pool}


def _taps(x: Tensor, packed: Tensor, outs: int) -> Tensor:
    weight = packed.unflatten(0, (3, 3))[:, :, : x.shape[1], :outs]
    return F.conv2d(x, weight.permute(3, 2, 0, 1), padding=1)


def _precision(dtype: torch.dtype) -> str:
    return "tf32" if dtype == torch.float32 else "ieee"


@contextlib.contextmanager
def on_a_card_without_one(launches: Launches) -> Iterator[None]:
    """Meanwhile the CPU passes for a card that takes Triton wherever it is offered."""

    def compare(self: Any, step: Any, inputs: Any, setters: Mapping[str, Any]) -> str:
        for name, set_implementation in setters.items():
            if name in TRITON or name == next(iter(setters)):
                own = copy.copy(step)
                set_implementation(own)
                own(*inputs)
        return next((name for name in setters if name in TRITON), next(iter(setters)))

    with contextlib.ExitStack() as stack:
        for place in _ASK_FOR_A_GPU:
            stack.enter_context(mock.patch(f"{_PACKAGE}.{place}", return_value=None))
        # Nor is it asked how quick it is in 16 bits.
        whole = mock.patch(
            f"{_PACKAGE}.optimize.optimize.computed_in", lambda dtype, _: (dtype, "")
        )
        stack.enter_context(whole)
        stack.enter_context(mock.patch.object(launching, "launch", launches))
        # torch adds up in another order than its own convolution with a bias: that is no finding.
        stack.enter_context(mock.patch.object(checking, "compared", return_value=None))
        stack.enter_context(mock.patch.object(autotune._Chooser, "_compare", compare))
        stack.enter_context(mock.patch.object(autotune, "_FOUND", {}))
        stack.enter_context(
            mock.patch.object(operators, "precision_of", lambda dtype, device: _precision(dtype))
        )
        yield


def optimized(
    model: segzoo.SegmentationModel, image: Tensor, dtype: torch.dtype | None = None
) -> tuple[segzoo.OptimizedModel, Launches]:
    """A model as optimising on a card would make it, with what that would compile.

    Other sizes go through the same launches.
    """
    launches = Launches()
    with on_a_card_without_one(launches):
        fast = segzoo.optimize(model, dtype=dtype, example=image)
        with torch.no_grad():
            Answers(fast._run, model.threshold)(image.to(fast.dtype))
    return fast, launches


def compiled(kernel: Kernel, capability: int) -> dict[str, Any]:
    """What came of compiling a kernel: processor seconds, shared memory, registers, stack."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function, constants = launching.KERNELS[kernel.name], dict(kernel.constants)
    named = [name for name in function.arg_names if name not in constants]
    kinds = dict(zip(named, (*kernel.pointers, "i32", "i32", "i32"), strict=True))
    aligned = [["tt.divisibility", 16]]
    source = ASTSource(
        function,
        {name: kinds.get(name, "constexpr") for name in function.arg_names},
        constants,
        {(i,): aligned for i, n in enumerate(function.arg_names) if kinds.get(n, "")[:1] == "*"},
    )
    before = os.times()
    made = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": kernel.warps, "num_stages": 1},
    )
    seconds = sum(os.times()[:4]) - sum(before[:4])
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    registers, stack = (int(re.search(rf"{name}:(\d+)", said)[1]) for name in ("REG", "STACK"))
    return {
        "capability": capability,
        "kernel": kernel.widths,
        "type": kernel.pointers[1].removeprefix("*"),
        "cpu_seconds": round(seconds, 2),
        "shared_kib": round(made.metadata.shared / 1024, 1),
        "registers": registers,
        "stack_bytes": stack,
        "tensor_cores": "mma" in made.asm["ptx"],
        # 16 bytes at a time.
        "wide_loads": "ld.global.v4" in made.asm["ptx"] or "v4.b32" in made.asm["ptx"],
    }


def main() -> None:
    """Count, compile and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--cards", type=int, nargs="+", default=list(SHARED))
    parser.add_argument("--types", nargs="+", default=["bfloat16", "float32"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = segzoo.Unet(arguments.encoder, classes=3).eval()
    rows = []
    for name in arguments.types:
        _, launches = optimized(model, torch.rand(1, 3, 64, 64), getattr(torch, name))
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": folder}),
        ):
            for capability in arguments.cards:
                for kernel in launches.kernels:
                    rows.append(compiled(kernel, capability))
                    print(*rows[-1].values(), flush=True)
    bad = [
        row
        for row in rows
        if row["stack_bytes"] > STACK or row["shared_kib"] > SHARED[row["capability"]]
    ]
    print(f"{len(bad)} of {len(rows)} spill or have too much shared memory", flush=True)
    record = {"encoder": arguments.encoder, "spill_or_too_large": len(bad)}
    write_result("kernel_compiling", record, rows=rows)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
