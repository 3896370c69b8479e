"""What a device can do at best: copying memory, and multiplying matrices in a dtype.

python -m benchmarks.ceilings
"""

from __future__ import annotations

import functools

import torch

from segzoo.inference.timing import in_turn

#: Bytes that are copied, and the side of the matrices: large enough for caches and launches not to
#: matter.
_COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}
_SIDE = {"cuda": 8192, "cpu": 1024}


@functools.cache
def ceilings(device: str, dtype: torch.dtype, tf32: bool = False) -> dict[str, float]:
    """GB/s of a copy (bytes read and written) and TFLOP/s of a matrix product, the best round.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: Of the matrices.
        tf32: Whether float32 matrices are multiplied in TF32; only a part of the key, the caller
            has switched it on or off.
    """
    kind = torch.device(device).type
    source = torch.empty(_COPY_BYTES[kind], dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    side = _SIDE[kind]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(side, side, generator=generator).to(device, dtype)
    b, out = a.t().contiguous(), torch.empty_like(a)
    timings = in_turn(
        {"copy": lambda: target.copy_(source), "matmul": lambda: torch.mm(a, b, out=out)},
        device=device,
        rounds=7,
        turn=0.02,
    )
    copy_ms, matmul_ms = min(timings["copy"].rounds), min(timings["matmul"].rounds)
    return {
        "copy_gb_s": round(2 * source.nbytes / copy_ms / 1e6, 1),
        "matmul_tflop_s": round(2 * side**3 / matmul_ms / 1e9, 3),
    }


def main() -> None:
    """Print them for this machine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        print(device, dtype, ceilings(device, dtype))


if __name__ == "__main__":
    main()
