"""What a device can do at best: copying memory, multiplying matrices, convolving.

python -m benchmarks.throughput.ceilings
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from segzoo.timing import in_turn

#: Bytes that are copied, side of the matrices, number of images: so large that caches and launches
#: do not matter.
_COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}
_SIDE = {"cuda": 8192, "cpu": 1024}
_BATCH = {"cuda": 64, "cpu": 1}
_CHANNELS, _IMAGE = 256, 64


@functools.cache
@torch.no_grad()
def ceilings(device: str, dtype: torch.dtype, tf32: bool = False) -> dict[str, float]:
    """GB/s of a copy (read and written) and TFLOP/s of products and convolutions, the best round.

    A 3x3 convolution of 256 channels is there because some CPUs' matrix products are far from what
    their convolutions reach; ``tflop_s`` is the higher of the two.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: Of matrices and images.
        tf32: Whether float32 is multiplied in TF32; only a part of the key, the caller has
            switched it on or off.
    """
    kind = torch.device(device).type
    source = torch.empty(_COPY_BYTES[kind], dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    side, batch = _SIDE[kind], _BATCH[kind]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    a, b = random(side, side), random(side, side)
    out = torch.empty_like(a)
    images = random(batch, _CHANNELS, _IMAGE, _IMAGE).contiguous(memory_format=torch.channels_last)
    kernel = random(_CHANNELS, _CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last)
    timings = in_turn(
        {
            "copy": lambda: target.copy_(source),
            "product": lambda: torch.mm(a, b, out=out),
            "convolution": lambda: F.conv2d(images, kernel, padding=1),
        },
        device=device,
        rounds=7,
        turn=0.02,
    )
    best = {name: min(timing.rounds) for name, timing in timings.items()}
    product = 2 * side**3 / best["product"] / 1e9
    convolution = 2 * 9 * images.numel() * _CHANNELS / best["convolution"] / 1e9
    return {
        "copy_gb_s": round(2 * source.nbytes / best["copy"] / 1e6, 1),
        "product_tflop_s": round(product, 3),
        "convolution_tflop_s": round(convolution, 3),
        "tflop_s": round(max(product, convolution), 3),
    }


def main() -> None:
    """Print them for this machine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        print(device, dtype, ceilings(device, dtype))


if __name__ == "__main__":
    main()
