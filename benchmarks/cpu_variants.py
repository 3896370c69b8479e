"""Other ways to compute steps of Unet-resnet34 on a CPU: those that optimize takes, and those not.

    python -m benchmarks.cpu_variants [--threads 1]

The shapes are those at 512x512. Each way takes turns with what it stands for, in float32 and in
bfloat16, and its output is compared with that. Those that are kept are the package's own code;
the others are only here.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import summary, write_result
from segzoo._compat import convolve, convolve_transposed, packed_transposed
from segzoo.inference.optimize.dtypes import computed_in
from segzoo.inference.optimize.fused_conv import FusedConv, Geometry
from segzoo.inference.optimize.max_pool import PooledRelu
from segzoo.inference.optimize.toom_cook import transforms
from segzoo.inference.optimize.winograd import POINTS
from segzoo.nn.upsample_conv import doubled_kernel
from segzoo.timing import in_turn, largest_difference

ROUNDS = 15
#: Of the largest value: sums of roundings in another order.
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 0.03}
ONCE, NONE, TWICE = (1, 1), (0, 0), (2, 2)
Call = Callable[[], Tensor]


class Pair(NamedTuple):
    """Two ways to the same output; whether optimize takes the second; its precisions."""

    name: str
    plain: Call
    variant: Call
    taken: bool


def lying(*shape: int, dtype: torch.dtype) -> Tensor:
    """A random map, cell by cell."""
    x = torch.randn(shape).relu().to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def packed_conv(
    weight: Tensor,
    bias: Tensor | None,
    shape: tuple[int, ...],
    padding: tuple[int, int],
    stride: tuple[int, int] = ONCE,
    act: str = "relu",
) -> Callable[[Tensor], Tensor]:
    """A convolution by oneDNN, set up for inputs of a shape."""
    reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight
    packed = reorder(weight.to_mkldnn(), padding, stride, ONCE, 1, list(shape))
    return lambda x: convolve(x, packed, bias, padding, stride, ONCE, 1, act, [], "")


def weights(*shape: int, dtype: torch.dtype) -> Tensor:
    """Of a convolution, such that values keep their size."""
    return (torch.randn(shape) * (2 / math.prod(shape[1:])) ** 0.5).to(dtype)


def pooling(dtype: torch.dtype) -> Iterator[Pair]:
    """The pooling after the stem."""
    x = lying(1, 64, 256, 256, dtype=dtype)
    plain, integers = PooledRelu(), PooledRelu()
    if "integers" in integers.choices(x):
        integers.use("integers", x)
        calls = (functools.partial(pool, x) for pool in (plain, integers))
        yield Pair("max-pooling in integers", *calls, taken=True)


def sums(dtype: torch.dtype) -> Iterator[Pair]:
    """The end of a residual block."""
    for channels, side in ((64, 128), (256, 32)):
        x, other = (lying(1, channels, side, side, dtype=dtype) for _ in range(2))
        conv = FusedConv(
            weights(channels, channels, 3, 3, dtype=dtype), None, Geometry(), act="relu", adds=True
        )
        conv.use("onednn", x)

        def in_place(conv: FusedConv = conv, x: Tensor = x, other: Tensor = other) -> Tensor:
            conv.overwrites = True
            out: Tensor = conv(x, other)
            conv.overwrites = False
            return out

        def apart(conv: FusedConv = conv, x: Tensor = x, other: Tensor = other) -> Tensor:
            out: Tensor = conv(x, other)
            return out

        yield Pair(f"sum in place, {channels} channels at {side}x{side}", apart, in_place, True)


def wider(dtype: torch.dtype) -> Iterator[Pair]:
    """Convolutions of 16 bits in float32, which is what ``optimize`` does where it is faster."""
    if dtype is torch.float32:
        return
    for outputs, channels, side in ((64, 64, 128), (256, 256, 32), (16, 16, 512)):
        x = lying(1, channels, side, side, dtype=dtype)
        weight = weights(outputs, channels, 3, 3, dtype=dtype)
        calls = []
        for kind in (dtype, torch.float32):
            conv, given = FusedConv(weight.to(kind), None, Geometry(), act="relu"), x.to(kind)
            conv.use("onednn", given)
            calls.append(functools.partial(conv, given))
        taken = computed_in(dtype, x.device)[0] is torch.float32
        yield Pair(f"convolution in float32, {channels} channels at {side}x{side}", *calls, taken)


def stem(dtype: torch.dtype) -> Iterator[Pair]:
    """7x7 with stride 2 as 4x4 on an image with the cells of 2x2 squares as channels."""
    x, weight = lying(1, 3, 512, 512, dtype=dtype), weights(64, 3, 7, 7, dtype=dtype)
    plain = packed_conv(weight, None, x.shape, (3, 3), TWICE)
    squares = F.pad(weight, (1, 0, 1, 0)).unflatten(3, (4, 2)).unflatten(2, (4, 2))
    squares = squares.permute(0, 3, 5, 1, 2, 4).reshape(64, 12, 4, 4).contiguous()
    folded = packed_conv(squares, None, (1, 12, 259, 259), NONE)

    def variant() -> Tensor:
        cells = x.permute(0, 2, 3, 1).view(1, 256, 2, 256, 2, 3).permute(0, 1, 3, 2, 4, 5)
        return folded(F.pad(cells.reshape(1, 256, 256, 12), (0, 0, 2, 1, 2, 1)).permute(0, 3, 1, 2))

    yield Pair("stem on a space-to-depth image", lambda: plain(x), variant, False)


def tail(dtype: torch.dtype) -> Iterator[Pair]:
    """The last block and the head: in strips, and with the cells of 2x2 squares as channels."""
    side = 256
    x = lying(1, 32, side, side, dtype=dtype)
    first, second, head = (
        weights(*shape, 3, 3, dtype=dtype) for shape in ((16, 32), (16, 16), (3, 16))
    )
    doubled = doubled_kernel(first.double()).to(dtype).contiguous()

    def steps(rows: int) -> Callable[[Tensor], Tensor]:
        shape = (1, 16, 2 * rows, 2 * side)
        packed = packed_transposed(doubled, ONCE, NONE, TWICE, ONCE, 1, [1, 32, rows, side])
        conv, last = (
            packed_conv(second, None, shape, ONCE),
            packed_conv(head, None, shape, ONCE, act="none"),
        )

        def run(x: Tensor) -> Tensor:
            x = convolve_transposed(x, packed, None, ONCE, NONE, TWICE, ONCE, 1, "relu", [], "")
            return last(conv(x))

        return run

    whole = steps(side)
    for rows in (16, 32, 64):
        strip = steps(rows + 4)

        def strips(rows: int = rows, strip: Callable[[Tensor], Tensor] = strip) -> Tensor:
            out = []
            for row in range(0, side, rows):
                # The doubled map of two rows more on either side holds all that a strip needs.
                above, below = min(row, 2), min(side - row - rows, 2)
                made = strip(x[:, :, row - above : row + rows + below])
                out.append(made[:, :, 2 * above : 2 * (above + rows)])
            return torch.cat(out, dim=2)

        yield Pair(f"last block and head in strips of {rows} rows", lambda: whole(x), strips, False)

    # A square of outputs between four squares of inputs sees all of them and nothing else.
    spread = doubled[:, :, ((2, 0), (3, 1))][..., ((2, 0), (3, 1))].permute(2, 4, 1, 0, 3, 5)
    one = packed_conv(spread.reshape(64, 32, 2, 2).contiguous(), None, x.shape, ONCE)
    two = packed_conv(_squares(second), None, (1, 64, side + 1, side + 1), NONE)
    three = packed_conv(_squares(head), None, (1, 64, side, side), ONCE, act="none")

    def as_squares() -> Tensor:
        made = one(x)
        cells = made.permute(0, 2, 3, 1).view(side + 1, side + 1, 2, 2, 16)
        # Those outside the map are zero for the next convolution.
        for edge in (cells[0, :, 0], cells[-1, :, 1], cells[:, 0, :, 0], cells[:, -1, :, 1]):
            edge.zero_()
        made = three(two(made)).view(1, 2, 2, 3, side + 1, side + 1)
        return made.permute(0, 3, 4, 1, 5, 2).reshape(1, 3, 514, 514)[..., 1:-1, 1:-1]

    yield Pair("last block and head in 2x2 squares", lambda: whole(x), as_squares, False)


def _squares(weight: Tensor) -> Tensor:
    """``(O, C, 3, 3)`` -> ``(4 O, 4 C, 2, 2)``: from squares of cells to those between them."""
    outputs, channels = weight.shape[:2]
    spread = weight.new_zeros(2, 2, outputs, channels, 4, 4)
    for row in range(2):
        for column in range(2):
            spread[row, column, :, :, row : row + 3, column : column + 3] = weight
    spread = spread.unflatten(5, (2, 2)).unflatten(4, (2, 2))
    return spread.permute(0, 1, 2, 5, 7, 3, 4, 6).reshape(4 * outputs, 4 * channels, 2, 2)


def one_sided(dtype: torch.dtype) -> Iterator[Pair]:
    """Winograd's algorithm along the height, three products along the width."""
    if dtype is not torch.float32:
        return
    for channels, side in ((64, 128), (128, 64), (256, 32)):
        x = lying(1, channels, side, side, dtype=dtype)
        weight = weights(channels, channels, 3, 3, dtype=dtype)
        conv = FusedConv(weight, None, Geometry(), act="relu")
        conv.use("onednn", x)
        back, kernel, tile = transforms(POINTS[4], 3)
        filters = torch.einsum("ia,ocab->ibco", kernel, weight.double()).float().contiguous()
        back, tile = back.float(), tile.float()
        rows, across = side // 4, side + 2

        def variant(
            x: Tensor = x,
            filters: Tensor = filters,
            back: Tensor = back,
            tile: Tensor = tile,
            size: tuple[int, ...] = (rows, across, side, channels),
        ) -> Tensor:
            rows, across, side, channels = size
            lines = F.pad(x.permute(0, 2, 3, 1)[0], (0, 0, 1, 1, 1, 1)).flatten(1)
            cells = lines.unfold(0, 6, 4).transpose(1, 2)
            made = torch.bmm(tile.expand(rows, 6, 6), cells).transpose(0, 1)
            made = made.reshape(6, rows * across, channels)
            sums = made.new_empty(6, rows * across, channels)
            inner = sums[:, :-2]
            torch.bmm(made[:, :-2], filters[:, 0], out=inner)
            inner.baddbmm_(made[:, 1:-1], filters[:, 1]).baddbmm_(made[:, 2:], filters[:, 2])
            sums = sums.view(6, rows, across, channels)[:, :, :-2].flatten(2).transpose(0, 1)
            out = torch.bmm(back.expand(rows, 4, 6), sums).relu_()
            return out.view(1, side, side, channels).permute(0, 3, 1, 2)

        name = f"Winograd's algorithm along one side, {channels} channels at {side}x{side}"
        yield Pair(name, functools.partial(conv, x), variant, False)


def bilinear(dtype: torch.dtype) -> Iterator[Pair]:
    """Resizing by products with two matrices, of rows and of columns."""
    channels, side = 128, 64
    x = lying(1, channels, side, side, dtype=dtype)
    resize = functools.partial(F.interpolate, scale_factor=2, mode="bilinear")
    # What becomes of each row is a column of the matrix.
    matrix = F.interpolate(torch.eye(side)[None, :, :, None], (2 * side, 1), mode="bilinear")
    matrix = matrix[0, :, :, 0].T.contiguous().to(dtype)

    def variant() -> Tensor:
        columns = torch.bmm(matrix.expand(side, *matrix.shape), x.permute(0, 2, 3, 1)[0])
        rows = torch.mm(matrix, columns.view(side, -1))
        return rows.view(1, 2 * side, 2 * side, channels).permute(0, 3, 1, 2)

    yield Pair("bilinear resizing as products", lambda: resize(x), variant, False)


@torch.inference_mode()
def measure(pair: Pair, dtype: torch.dtype) -> dict[str, Any]:
    """Milliseconds of both, and how far they are apart."""
    expected = pair.plain()  # first: a sum in place changes what it adds
    difference = largest_difference(pair.variant(), expected)
    if not difference <= ALLOWED[dtype]:
        raise ValueError(f"{pair.name} in {dtype} differs by {difference:.1e}.")
    calls = {"plain": pair.plain, "variant": pair.variant}
    timings = in_turn(calls, rounds=ROUNDS, turn=0.02, own_time=True)
    return {
        "name": pair.name,
        "dtype": str(dtype).removeprefix("torch."),
        "taken": pair.taken,
        "plain": summary(timings["plain"].rounds),
        "variant": summary(timings["variant"].rounds),
        "speed_up": round(timings["variant"].speed_up_over(timings["plain"]), 3),
        "difference": float(f"{difference:.2g}"),
    }


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for make in (pooling, sums, wider, stem, tail, one_sided, bilinear):
            for pair in make(dtype):
                rows.append(measure(pair, dtype))
                print(rows[-1])
    write_result("cpu_variants", {"rounds": ROUNDS}, rows=rows)


if __name__ == "__main__":
    main()
