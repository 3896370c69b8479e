"""Which tiles a kernel may use; the fastest is found by trying on the device.

On the first map that a kernel of those widths is given: trying again for every new size would cost
seconds each time, and a tile that suits one large map suits another.

Imports Triton, so it is imported when a kernel is first asked for.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, NamedTuple

import torch
import triton

from . import triton_code

#: Whether TRITON_INTERPRET=1 was set when the kernels, and Triton's own functions before them, were
#: made: they then run on the CPU.
INTERPRETED = not any(
    isinstance(function, triton.JITFunction)
    for function in (triton_code.conv_kernel, triton.language.cdiv)
)
#: Held while a kernel is launched: a tuner keeps the arguments of the launch that it is tuning for.
LAUNCHING = threading.Lock()


class Tile(NamedTuple):
    """Cells down and across (a cell is a 2x2 square of the output), warps, channels at a time."""

    height: int
    width: int
    warps: int
    depth: int


CONV_TILES = (
    Tile(8, 8, 4, 16),
    Tile(8, 8, 4, 32),
    Tile(8, 16, 4, 16),
    Tile(8, 16, 8, 16),
    Tile(8, 16, 8, 32),
)
#: With a head there are two convolutions to keep registers for; larger tiles waste less border.
HEAD_TILES = (Tile(8, 8, 4, 16), Tile(8, 16, 8, 16), Tile(8, 16, 8, 32))
#: For exact float32, which is computed without tensor cores, each thread with its operands.
EXACT_TILE = Tile(4, 4, 4, 16)
#: In the interpreter, which has no tuning: small, so that small maps have several tiles.
INTERPRETED_OPTIONS = {"TILE_H": 4, "TILE_W": 4, "DEPTH": 16}
#: Of a thread's 255 registers: what the four sums may take, and the sums with the weights.
SUMS = 64
SUMS_AND_WEIGHTS = 144


def fits(tile: Tile, outs: int, dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    """Whether a tile with that many output channels leaves registers for maps and addresses.

    Before compute capability 9.0 a tensor core takes both operands from registers, and each warp
    keeps the matrices of all nine taps for the next row; from then on they stay in shared memory.
    """
    sums = 4 * tile.height * tile.width * outs // (32 * tile.warps)
    weights = 0 if capability >= (9, 0) else 9 * tile.depth * outs * dtype.itemsize // 128
    return sums <= SUMS and sums + weights <= SUMS_AND_WEIGHTS


def fitting(
    tiles: tuple[Tile, ...],
    outs: int,
    dtype: torch.dtype,
    precision: str,
    capability: tuple[int, int],
) -> list[Tile]:
    """The tiles that fit into the registers, or else the first, which takes the fewest."""
    if dtype == torch.float32 and precision == "ieee":
        return [EXACT_TILE]
    if dtype == torch.float32:  # twice the bytes: half the depth
        tiles = tuple(tile for tile in tiles if tile.depth == 16)
    return [tile for tile in tiles if fits(tile, outs, dtype, capability)] or [tiles[0]]


@functools.cache
def _tuned(kernel: Any, tiles: tuple[Tile, ...], widths: tuple[str, ...]) -> Any:
    """The kernel with its tuner; ``widths`` names what its sums are as wide as.

    Made when first launched: Triton 3.2 asks for a GPU as soon as a tuner is made.
    """
    if INTERPRETED:
        return kernel

    def prune(configs: list[Any], named: dict[str, Any], **options: Any) -> list[Any]:
        out, values = named["out"], {**named, **options}
        capability = torch.cuda.get_device_capability(out.device)
        outs = max(values[width] for width in widths)
        fit = fitting(tiles, outs, out.dtype, values["PRECISION"], capability)
        return [by_tile[tile] for tile in fit]

    by_tile = {
        tile: triton.Config(
            {"TILE_H": tile.height, "TILE_W": tile.width, "DEPTH": tile.depth},
            num_warps=tile.warps,
            num_stages=1,
        )
        for tile in (*tiles, EXACT_TILE)
    }
    widths_and_precision = {"SMALL", "FULL", "CHANNELS", "MIDDLE", "CLASSES", "PRECISION"}
    key = [name for name in kernel.arg_names if name in widths_and_precision]
    pruning = {"early_config_prune": prune}
    return triton.autotune(list(by_tile.values()), key, prune_configs_by=pruning)(kernel)


def conv() -> Any:
    """The kernel without a head, to be launched."""
    return _tuned(triton_code.conv_kernel, CONV_TILES, ("BLOCK",))


def head() -> Any:
    """The kernel with a head, to be launched."""
    return _tuned(triton_code.head_kernel, HEAD_TILES, ("MIDDLE", "OUTS"))
