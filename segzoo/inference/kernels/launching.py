"""How a kernel is launched: in tiles of which there are two, and one launch at a time.

Which of the two is faster depends on the map and the card; who optimises a model times both on the
shapes that matter. Nothing is tried at a launch, and no number that changes with a map's size is
part of what is compiled: a kernel of given widths, type and tile is compiled once, for every size.

Imports Triton, so it is imported when a kernel is first asked for.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import triton_code, triton_head, triton_stem

#: Whether TRITON_INTERPRET=1 was set when the kernels, and Triton's own functions before them, were
#: made: they then run on the CPU.
INTERPRETED = not any(
    isinstance(function, triton.JITFunction)
    for function in (triton_code.conv_kernel, triton.language.cdiv)
)
#: Held while a kernel is launched: Triton compiles in the first launch, and keeps what it compiled
#: without a lock.
_LAUNCHING = threading.Lock()
#: Functions by the name that :mod:`.operators` gives them.
KERNELS = {
    "conv": triton_code.conv_kernel,
    "head": triton_head.head_kernel,
    "image": triton_stem.image_kernel,
    "pool": triton_stem.pool_kernel,
}


class Tile(NamedTuple):
    """Cells down and across, and warps.

    A cell is a 2x2 square of the output, and of the first layers' kernels a pixel of it.
    """

    height: int
    width: int
    warps: int


#: Both take 64 of a thread's 255 registers for the four sums of 32 channels. The larger one reads
#: weights half as often, and needs a card with work enough for eight warps a program.
TILES = (Tile(8, 8, 4), Tile(8, 16, 8))
#: For exact float32, which is computed without tensor cores, each thread with its operands.
_EXACT = Tile(4, 4, 4)
#: Of the head in TF32, whose operands are twice as large: twice the warps share them.
_HEAD_IN_TF32 = Tile(8, 8, 8)
#: In the interpreter: small, so that small maps have several tiles.
_INTERPRETED = Tile(4, 4, 4)
#: Channels at a time: what a product of matrices sums over at least. Before compute capability 9.0
#: a warp keeps the matrices of all nine taps in registers; 32 channels of them do not fit there.
DEPTH = 16


def tile_of(name: str, index: int, dtype: torch.dtype, precision: str) -> Tile:
    """The tile of a kernel of :data:`KERNELS`: one of :data:`TILES`, where there is a choice."""
    if INTERPRETED:
        return _INTERPRETED
    if dtype == torch.float32 and precision == "ieee":
        return _EXACT
    return _HEAD_IN_TF32 if dtype == torch.float32 and name == "head" else TILES[index]


def launch(
    name: str,
    programs: int,
    tensors: tuple[Tensor, ...],
    sizes: tuple[int, int, int],
    constants: dict[str, Any],
    tile: Tile,
) -> None:
    """Run a kernel, its first tensor being the output; on the device of that.

    Args:
        name: One of :data:`KERNELS`.
        programs: How many.
        tensors: In the order of its arguments.
        sizes: Images, height and width, which come after the tensors.
        constants: What it is compiled for, besides the tile.
        tile: Its cells.
    """
    with torch.cuda.device_of(tensors[0]), _LAUNCHING:
        KERNELS[name][(programs,)](
            *tensors,
            *sizes,
            **constants,
            **tiled(name, tile),
            num_warps=tile.warps,
            num_stages=1,
        )


def tiled(name: str, tile: Tile) -> dict[str, int]:
    """The constants that a tile of a kernel stands for."""
    depth = {} if name == "pool" else {"DEPTH": DEPTH}
    return {"TILE_H": tile.height, "TILE_W": tile.width, **depth}
