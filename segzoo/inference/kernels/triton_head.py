"""The kernel of a decoder's last convolution with the head; imports Triton.

The first convolution is computed in phases, as :mod:`.triton_code` says. The head has few outputs,
and a product of matrices has 16 columns at least: of up to eight classes it computes the four
phases as columns of one product. A 3x3 window of a cell's phase lies in the 4x4 window of the cell,
one pixel further or not, so the weights of all four are put into one 4x4 kernel, zero elsewhere;
that is the sub-pixel convolution of Shi et al., 2016, turned around, and exact. 16 products take
the place of 36.

It can give the class of each pixel instead of its logits, which then never reach memory.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

from .triton_code import SIZES, _accumulate, _activated, _load_row, _product, _store


@triton.jit
def _keep(own, total, bias, pixel, y, x, height, width, outs, OUTS: tl.constexpr):
    """One phase's pixels to the program's scratch; those outside the image pad the head's input."""
    mask = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    total = tl.where(mask[:, None], _activated(total, bias, True), 0.0)
    tl.store(own + (pixel * OUTS)[:, None] + outs[None, :], total.to(own.dtype.element_ty))


@triton.jit
def _merged(
    image,
    weight,
    row,
    column,
    height,
    width,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """All phases of each cell, as columns of one sum; ``CHANNELS`` is padded."""
    SIZE: tl.constexpr = CHANNELS * COLUMNS
    columns = tl.arange(0, COLUMNS)
    total = tl.zeros((CELLS, COLUMNS), tl.float32)
    for start in range(0, CHANNELS, DEPTH):
        channels = start + tl.arange(0, DEPTH)
        matrices = weight + channels[:, None] * COLUMNS + columns[None, :]
        for shift in tl.static_range(4):
            tile0, tile1, tile2, tile3 = _load_row(
                image, row + shift, column, height, width, channels, CHANNELS, CHANNELS, 3
            )
            first = matrices + 4 * shift * SIZE
            total = _product(total, tile0, tl.load(first), PRECISION)
            total = _product(total, tile1, tl.load(first + SIZE), PRECISION)
            total = _product(total, tile2, tl.load(first + 2 * SIZE), PRECISION)
            total = _product(total, tile3, tl.load(first + 3 * SIZE), PRECISION)
    return total


@triton.jit
def _winner(values, AXIS: tl.constexpr, CLASSES: tl.constexpr):
    """The class of the largest logit, of one class whether it is above zero; 255 where one is NaN.

    Of equal ones the first, as torch does.
    """
    missing = tl.max((values != values).to(tl.int32), axis=AXIS)
    if CLASSES == 1:
        best = (tl.max(values, axis=AXIS) > 0).to(tl.int32)
    else:
        best = tl.argmax(values, axis=AXIS)
    return tl.where(missing > 0, 255, best).to(tl.uint8)


@triton.jit
def _store_merged(
    image,
    total,
    y,
    x,
    height,
    width,
    kept,
    CELLS: tl.constexpr,
    CLASSES: tl.constexpr,
    WIDTH: tl.constexpr,
    ANSWER: tl.constexpr,
    ROUNDED: tl.constexpr,
):
    """The four phases of each cell to the output; ``WIDTH`` columns belong to a phase."""
    STEP: tl.constexpr = 1 if ANSWER else WIDTH
    phase = tl.arange(0, 4 * STEP) // STEP
    row = y[:, None] + (phase // 2)[None, :]
    column = x[:, None] + (phase % 2)[None, :]
    mask = kept[:, None] & (row < height) & (column < width)
    at = row * width + column
    classes = tl.arange(0, 4 * WIDTH) % WIDTH
    if ANSWER:
        # Rounded first, as logits in memory are: so that the answer is theirs.
        total = total.to(ROUNDED).to(tl.float32)
        total = tl.where((classes < CLASSES)[None, :], total, float("-inf"))
        best = _winner(tl.reshape(total, (CELLS, 4, WIDTH)), 2, CLASSES)
        tl.store(image + at, best, mask=mask)
    else:
        at = at * CLASSES + classes[None, :]
        mask = mask & (classes < CLASSES)[None, :]
        tl.store(image + at, total.to(ROUNDED), mask=mask)


@triton.jit
def _store_phase(
    image,
    total,
    bias,
    y,
    x,
    height,
    width,
    kept,
    outs,
    CLASSES: tl.constexpr,
    ANSWER: tl.constexpr,
    ROUNDED: tl.constexpr,
):
    """One phase's pixels to the output."""
    if ANSWER:
        total = (total + bias[None, :]).to(ROUNDED).to(tl.float32)
        total = tl.where((outs < CLASSES)[None, :], total, float("-inf"))
        mask = kept & (y < height) & (x < width)
        tl.store(image + y * width + x, _winner(total, 1, CLASSES), mask=mask)
    else:
        _store(image, total, bias, y, x, height, width, kept, outs, CLASSES, False)


@triton.jit(do_not_specialize=SIZES)
def head_kernel(
    out,
    full,
    scratch,
    weight,
    bias,
    head_weight,
    head_bias,
    batch,
    height,
    width,
    FULL: tl.constexpr,
    CLASSES: tl.constexpr,
    PADDED_FULL: tl.constexpr,
    MIDDLE: tl.constexpr,
    OUTS: tl.constexpr,
    MERGED: tl.constexpr,
    ANSWER: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """``out = conv3x3(relu(conv3x3(full) + bias)) + head_bias``; the map between stays in cache.

    A program works through tiles with a stride. Of each it computes the map between the two
    convolutions on ``TILE_H x TILE_W`` cells, puts it into its own piece of ``scratch``, and reads
    the head's input back from there; the outermost pixels of a tile only serve as the head's
    border, so tiles overlap by two. The scratch holds one tile for each program, whatever the size
    of the image, and is written again and again while it is in the L2 cache.

    ``OUTS`` are the columns of the head's matrices: those of one phase, or where ``MERGED`` of all
    four. ``ANSWER``: ``out`` has one number for each pixel, its class.
    """
    # As many programs as run at once, each with its piece of scratch: one program for each tile
    # would need scratch for all of them, and the map between would be written to memory after all.
    program = tl.program_id(0)
    CELLS: tl.constexpr = TILE_H * TILE_W
    ROUNDED: tl.constexpr = full.dtype.element_ty
    own = scratch + program.to(tl.int64) * (4 * CELLS * MIDDLE)
    tiles_y = tl.cdiv(height, 2 * TILE_H - 2)
    tiles_x = tl.cdiv(width, 2 * TILE_W - 2)
    cell = tl.arange(0, CELLS)
    y = 2 * (cell // TILE_W)
    x = 2 * (cell % TILE_W)
    pixel = y * (2 * TILE_W) + x
    # The head's cells begin one pixel inside the tile, so there is one fewer each way.
    kept = (y < 2 * TILE_H - 2) & (x < 2 * TILE_W - 2)
    middle = tl.arange(0, MIDDLE)
    outs = tl.arange(0, OUTS)
    added = tl.load(bias + middle).to(tl.float32)
    head_added = tl.load(head_bias + outs).to(tl.float32)

    for tile in range(program, batch * tiles_y * tiles_x, tl.num_programs(0)):
        image = (tile // (tiles_y * tiles_x)).to(tl.int64)
        row = tile // tiles_x % tiles_y * (2 * TILE_H - 2) - 1 + y
        column = tile % tiles_x * (2 * TILE_W - 2) - 1 + x
        zeros = tl.zeros((CELLS, MIDDLE), tl.float32)
        # fmt: off
        sum00, sum01, sum10, sum11 = _accumulate(
            zeros, zeros, zeros, zeros,
            full + image * (height * width * FULL), weight,
            row - 1, column - 1, height, width, middle,
            FULL, PADDED_FULL, MIDDLE, DEPTH, 3, PRECISION,
        )
        below = pixel + 2 * TILE_W
        _keep(own, sum00, added, pixel, row, column, height, width, middle, MIDDLE)
        _keep(own, sum01, added, pixel + 1, row, column + 1, height, width, middle, MIDDLE)
        _keep(own, sum10, added, below, row + 1, column, height, width, middle, MIDDLE)
        _keep(own, sum11, added, below + 1, row + 1, column + 1, height, width, middle, MIDDLE)
        # fmt: on
        if ANSWER:
            answers = out + image * (height * width)
        else:
            answers = out + image * (height * width * CLASSES)
        row += 1
        column += 1
        tl.debug_barrier()  # every thread sees the whole tile
        # fmt: off
        if MERGED:
            total = _merged(
                own, head_weight, y, x, 2 * TILE_H, 2 * TILE_W,
                CELLS, MIDDLE, OUTS, DEPTH, PRECISION,
            )
            tl.debug_barrier()  # every thread has read it before the next tile overwrites it
            _store_merged(
                answers, total + head_added[None, :], row, column, height, width, kept,
                CELLS, CLASSES, OUTS // 4, ANSWER, ROUNDED,
            )
        else:
            zeros = tl.zeros((CELLS, OUTS), tl.float32)
            sum00, sum01, sum10, sum11 = _accumulate(
                zeros, zeros, zeros, zeros,
                own, head_weight, y, x, 2 * TILE_H, 2 * TILE_W, outs,
                MIDDLE, MIDDLE, OUTS, DEPTH, 3, PRECISION,
            )
            tl.debug_barrier()
            _store_phase(
                answers, sum00, head_added, row, column, height, width, kept, outs,
                CLASSES, ANSWER, ROUNDED,
            )
            _store_phase(
                answers, sum01, head_added, row, column + 1, height, width, kept, outs,
                CLASSES, ANSWER, ROUNDED,
            )
            _store_phase(
                answers, sum10, head_added, row + 1, column, height, width, kept, outs,
                CLASSES, ANSWER, ROUNDED,
            )
            _store_phase(
                answers, sum11, head_added, row + 1, column + 1, height, width, kept, outs,
                CLASSES, ANSWER, ROUNDED,
            )
        # fmt: on
