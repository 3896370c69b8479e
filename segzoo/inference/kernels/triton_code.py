"""The kernels themselves; imports Triton, so it is imported when a kernel is first asked for.

One idea carries both. A program takes a tile of *cells*, a cell being a 2x2 square of the output,
and keeps the four *phases* of its cells, the outputs (0, 0), (0, 1), (1, 0) and (1, 1) of each, in
four accumulators. A map is then loaded once for each of the few shifts at which any phase looks at
it, and that tile, once in registers, feeds up to four matrix products:

* a map at the output's resolution: 16 shifts for 36 products, where an implicit GEMM over pixels
  loads 36 tiles of the same size;
* a map at half of it, to be doubled: 9 shifts for 16 products (:mod:`segzoo.nn.upsample_conv` has
  the algebra), where doubling first costs 36 of each.

Maps are NHWC in memory. Weights come from :mod:`.packing`, padded to what ``tl.dot`` takes.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

#: Triton compiles a kernel anew where such a number is 1, or divisible by 16 or not. Nothing is
#: gained by it here: addresses are aligned by the channels, which are constants.
SIZES = ("batch", "height", "width")


@triton.jit
def _product(total, tile, matrix, PRECISION: tl.constexpr):
    if PRECISION == "widened":
        # Triton's interpreter multiplies bfloat16 as if its bits were an integer.
        total = tl.dot(tile.to(tl.float32), matrix.to(tl.float32), total)
    else:
        # The sum is passed in, not added afterwards: tensor cores accumulate in place, and a
        # separate addition would need the registers of a second tile.
        total = tl.dot(tile, matrix, total, input_precision=PRECISION)
    return total


@triton.jit
def _products(
    total,
    tile0,
    tile1,
    tile2,
    matrices,
    TAP: tl.constexpr,
    PHASE: tl.constexpr,
    TAPS: tl.constexpr,
    SIZE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the products of one row of taps, where the kernel of this phase has such a row."""
    if (TAP >= 0) and (TAP < TAPS):
        # A doubled map has a kernel for each phase; one of full resolution the same for all.
        FIRST: tl.constexpr = TAP * TAPS + (PHASE * 4 if TAPS == 2 else 0)
        matrices += FIRST * SIZE
        total = _product(total, tile0, tl.load(matrices), PRECISION)
        total = _product(total, tile1, tl.load(matrices + SIZE), PRECISION)
        if TAPS == 3:
            total = _product(total, tile2, tl.load(matrices + 2 * SIZE), PRECISION)
    return total


@triton.jit
def _load(image, y, x, height, width, channels, CHANNELS: tl.constexpr, PADDED: tl.constexpr):
    """A tile of the map, zero beyond its edges: the convolution's padding costs no branch."""
    mask = ((y >= 0) & (y < height) & (x >= 0) & (x < width))[:, None]
    if CHANNELS < PADDED:
        mask = mask & (channels < CHANNELS)[None, :]
    # 32 bits are enough within one image, and cost half the registers of 64: the caller has added
    # the image's own offset, in 64 bits, to the pointer.
    at = ((y * width + x) * CHANNELS)[:, None] + channels[None, :]
    return tl.load(image + at, mask=mask, other=0.0)


@triton.jit
def _load_row(
    image,
    y,
    x,
    height,
    width,
    channels,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    TAPS: tl.constexpr,
):
    """The tiles of all shifts along one row."""
    tile0 = _load(image, y, x, height, width, channels, CHANNELS, PADDED)
    tile1 = _load(image, y, x + 1, height, width, channels, CHANNELS, PADDED)
    tile2 = _load(image, y, x + 2, height, width, channels, CHANNELS, PADDED)
    tile3 = tile2
    if TAPS == 3:
        tile3 = _load(image, y, x + 3, height, width, channels, CHANNELS, PADDED)
    return tile0, tile1, tile2, tile3


@triton.jit
def _accumulate(
    sum00,
    sum01,
    sum10,
    sum11,
    image,
    weight,
    row,
    column,
    height,
    width,
    outs,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    OUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    TAPS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add one map's part to the four phases.

    ``row`` and ``column`` say where each cell's first shift lies in the map; beyond the map's edges
    it is zero. ``TAPS`` is 2 for a map that is doubled, 3 for one of the output's resolution. The
    tiles of the next row are asked for before those of this one are used.
    """
    # Offset from one tap's matrix (channels in, channels out) to the next.
    SIZE: tl.constexpr = PADDED * OUTS
    # The summed dimension of a product has at least 16 entries, which divide every padded width.
    BLOCK: tl.constexpr = DEPTH if PADDED % DEPTH == 0 else 16
    for start in range(0, PADDED, BLOCK):
        channels = start + tl.arange(0, BLOCK)
        base = weight + channels[:, None] * OUTS + outs[None, :]
        next0, next1, next2, next3 = _load_row(
            image, row, column, height, width, channels, CHANNELS, PADDED, TAPS
        )
        # One shift more than taps: the lower phases look one row further down than the upper ones.
        # Unrolled, because which phase uses which tile has to be known when it is compiled.
        for shift in tl.static_range(TAPS + 1):
            tile0, tile1, tile2, tile3 = next0, next1, next2, next3
            if shift < TAPS:
                next0, next1, next2, next3 = _load_row(
                    image, row + shift + 1, column, height, width, channels, CHANNELS, PADDED, TAPS
                )
            # fmt: off
            sum00 = _products(sum00, tile0, tile1, tile2, base, shift, 0, TAPS, SIZE, PRECISION)
            sum01 = _products(sum01, tile1, tile2, tile3, base, shift, 1, TAPS, SIZE, PRECISION)
            sum10 = _products(sum10, tile0, tile1, tile2, base, shift - 1, 2, TAPS, SIZE, PRECISION)
            sum11 = _products(sum11, tile1, tile2, tile3, base, shift - 1, 3, TAPS, SIZE, PRECISION)
            # fmt: on
    return sum00, sum01, sum10, sum11


@triton.jit
def _activated(total, bias, RELU: tl.constexpr):
    total += bias[None, :]
    if RELU:
        # Not maximum(): it makes zero of NaN, and torch's ReLU keeps it.
        total = tl.where(total < 0, 0.0, total)
    return total


@triton.jit
def _store(
    image, total, bias, y, x, height, width, kept, outs, CHANNELS: tl.constexpr, RELU: tl.constexpr
):
    """One phase's pixels to the output, those inside the image."""
    # Odd images: the last cell of a row or column has phases outside.
    mask = kept & (y < height) & (x < width)
    at = ((y * width + x) * CHANNELS)[:, None] + outs[None, :]
    total = _activated(total, bias, RELU).to(image.dtype.element_ty)
    tl.store(image + at, total, mask=mask[:, None] & (outs < CHANNELS)[None, :])


@triton.jit(do_not_specialize=SIZES)
def conv_kernel(
    out,
    small,
    full,
    small_weight,
    full_weight,
    bias,
    batch,  # the grid says it already; both kernels take the same numbers
    height,
    width,
    SMALL: tl.constexpr,
    FULL: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED_SMALL: tl.constexpr,
    PADDED_FULL: tl.constexpr,
    OUTS: tl.constexpr,
    BLOCK: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """``out = relu(conv3x3(cat(double(small), full)) + bias)``; either map may have no channels.

    A program computes ``TILE_H x TILE_W`` cells of one image and ``BLOCK`` of its channels, summing
    over ``DEPTH`` channels at a time; the programs of one tile are neighbours, so that they find it
    in the cache.
    """
    program = tl.program_id(0)
    tile = program // (OUTS // BLOCK)
    outs = program % (OUTS // BLOCK) * BLOCK + tl.arange(0, BLOCK)
    tiles_y = tl.cdiv(height, 2 * TILE_H)
    tiles_x = tl.cdiv(width, 2 * TILE_W)
    # In 64 bits, as the pointers that it moves: a batch may hold more than 2^31 values.
    image = (tile // (tiles_y * tiles_x)).to(tl.int64)
    cell = tl.arange(0, TILE_H * TILE_W)
    y = tile // tiles_x % tiles_y * TILE_H + cell // TILE_W
    x = tile % tiles_x * TILE_W + cell % TILE_W

    # In float32 whatever the maps are: a sum over 9 x channels products in bfloat16 loses them all.
    zeros = tl.zeros((TILE_H * TILE_W, BLOCK), tl.float32)
    sum00, sum01, sum10, sum11 = zeros, zeros, zeros, zeros
    if SMALL > 0:
        # A cell of the output is one pixel of the small map; with padding its phases look at that
        # pixel and at its neighbours, so the first shift lies one pixel up and to the left.
        small_height = height // 2
        small_width = width // 2
        # fmt: off
        sum00, sum01, sum10, sum11 = _accumulate(
            sum00, sum01, sum10, sum11,
            small + image * (small_height * small_width * SMALL), small_weight,
            y - 1, x - 1, small_height, small_width, outs,
            SMALL, PADDED_SMALL, OUTS, DEPTH, 2, PRECISION,
        )
        # fmt: on
    if FULL > 0:
        # fmt: off
        sum00, sum01, sum10, sum11 = _accumulate(
            sum00, sum01, sum10, sum11,
            full + image * (height * width * FULL), full_weight,
            2 * y - 1, 2 * x - 1, height, width, outs,
            FULL, PADDED_FULL, OUTS, DEPTH, 3, PRECISION,
        )
        # fmt: on
    own = out + image * (height * width * CHANNELS)
    added = tl.load(bias + outs).to(tl.float32)
    # The head's kernel keeps some cells only; here every cell is this program's to write.
    all_kept = cell >= 0
    y = 2 * y
    x = 2 * x
    _store(own, sum00, added, y, x, height, width, all_kept, outs, CHANNELS, RELU)
    _store(own, sum01, added, y, x + 1, height, width, all_kept, outs, CHANNELS, RELU)
    _store(own, sum10, added, y + 1, x, height, width, all_kept, outs, CHANNELS, RELU)
    _store(own, sum11, added, y + 1, x + 1, height, width, all_kept, outs, CHANNELS, RELU)
