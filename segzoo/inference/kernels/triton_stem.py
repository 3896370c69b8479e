"""The kernels of a backbone's first layers; imports Triton.

The first convolution sees an image of few channels, and libraries pad these to four or eight: of
three that wastes a quarter or more of the products, and often an image is copied for it. Here the
values under a window are the summed dimension: a row of a window lies in one piece in memory, taps
and channels alike, so that a 7x7 window of three channels is 147 values, padded once to 160.

The maximum after it reads and writes, and hardly computes. torch's own writes, beside the maximum,
where each was found, in eight bytes.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

from .triton_code import SIZES, _product, _store


@triton.jit
def _outputs(size, TAPS: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr):
    """How many windows there are along a side."""
    return (size + 2 * PAD - TAPS) // STRIDE + 1


@triton.jit
def _place(
    program,
    height,
    width,
    BLOCKS: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """Which block of channels, which image, and which pixels of it are a program's.

    The programs of one tile are neighbours, so that they find it in the cache.
    """
    tile = program // BLOCKS
    tiles_y = tl.cdiv(height, TILE_H)
    tiles_x = tl.cdiv(width, TILE_W)
    # In 64 bits, as the pointers that it moves: a batch may hold more than 2^31 values.
    image = (tile // (tiles_y * tiles_x)).to(tl.int64)
    pixel = tl.arange(0, TILE_H * TILE_W)
    y = tile // tiles_x % tiles_y * TILE_H + pixel // TILE_W
    x = tile % tiles_x * TILE_W + pixel % TILE_W
    return program % BLOCKS, image, y, x


@triton.jit(do_not_specialize=SIZES)
def image_kernel(
    out,
    image,
    weight,
    bias,
    batch,  # the grid says it already; all kernels take the same numbers
    height,
    width,
    FULL: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTS: tl.constexpr,
    BLOCK: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """``out = relu(conv(image) + bias)`` for an image of ``FULL`` channels and any window.

    A program computes ``TILE_H x TILE_W`` pixels of the result and ``BLOCK`` of its channels.
    ``height`` and ``width`` are the image's.
    """
    rows = _outputs(height, WINDOW_H, STRIDE_H, PAD_H)
    columns = _outputs(width, WINDOW_W, STRIDE_W, PAD_W)
    block, number, y, x = _place(tl.program_id(0), rows, columns, OUTS // BLOCK, TILE_H, TILE_W)
    outs = block * BLOCK + tl.arange(0, BLOCK)
    own = image + number * (height * width * FULL)
    # A window's first pixel may lie outside the image, and its address before it: it is masked.
    top = y * STRIDE_H - PAD_H
    left = x * STRIDE_W - PAD_W
    first = (top * width + left) * FULL
    ROW: tl.constexpr = WINDOW_W * FULL
    VALUES: tl.constexpr = WINDOW_H * ROW
    total = tl.zeros((TILE_H * TILE_W, BLOCK), tl.float32)
    for start in range(0, VALUES, DEPTH):
        value = start + tl.arange(0, DEPTH)
        down = value // ROW
        along = value % ROW
        row = top[:, None] + down[None, :]
        column = left[:, None] + (along // FULL)[None, :]
        mask = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        mask = mask & (value < VALUES)[None, :]
        at = first[:, None] + (down * width * FULL + along)[None, :]
        tile = tl.load(own + at, mask=mask, other=0.0)
        # The weights are padded to whole steps.
        matrix = tl.load(weight + value[:, None] * OUTS + outs[None, :])
        total = _product(total, tile, matrix, PRECISION)
    own = out + number * (rows * columns * CHANNELS)
    added = tl.load(bias + outs).to(tl.float32)
    _store(own, total, added, y, x, rows, columns, y >= 0, outs, CHANNELS, RELU)


@triton.jit(do_not_specialize=SIZES)
def pool_kernel(
    out,
    image,
    batch,
    height,
    width,
    CHANNELS: tl.constexpr,
    OUTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """The maximum of 3x3 windows, each second one, with a cell of padding; a NaN stays one."""
    rows = _outputs(height, 3, 2, 1)
    columns = _outputs(width, 3, 2, 1)
    block, number, y, x = _place(tl.program_id(0), rows, columns, OUTS // BLOCK, TILE_H, TILE_W)
    channels = block * BLOCK + tl.arange(0, BLOCK)
    own = image + number * (height * width * CHANNELS)
    known = (channels < CHANNELS)[None, :]
    best = tl.full((TILE_H * TILE_W, BLOCK), float("-inf"), tl.float32)
    for tap in tl.static_range(9):
        row = 2 * y - 1 + tap // 3
        column = 2 * x - 1 + tap % 3
        mask = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        at = ((row * width + column) * CHANNELS)[:, None] + channels[None, :]
        value = tl.load(own + at, mask=mask[:, None] & known, other=float("-inf"))
        best = tl.maximum(best, value.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)
    own = out + number * (rows * columns * CHANNELS)
    at = ((y * columns + x) * CHANNELS)[:, None] + channels[None, :]
    mask = ((y < rows) & (x < columns))[:, None] & known
    tl.store(own + at, best.to(out.dtype.element_ty), mask=mask)
