"""The kernels as operators of torch: what ``torch.compile`` and ``torch.export`` see.

They are opaque, ``segzoo::double_concat_conv`` and so on, with a rule for the result's shape: a
compiler works around them and an exported program names them. There are no gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError
from .availability import usable
from .packing import merges, padded

if TYPE_CHECKING:
    from . import launching

#: Programs of the kernel with a head for each multiprocessor, and in the interpreter.
PROGRAMS_PER_PROCESSOR = 4
INTERPRETED_PROGRAMS = 3
#: The window of :data:`max_pool`, its steps and its padding, as of a convolution.
POOL = (3, 3, 2, 2, 1, 1)


def tf32_allowed() -> bool:
    """Whether torch lets its own float32 convolutions round their operands to TF32."""
    # From torch 2.9 on the setting has a name of its own, and the older one may refuse to be read.
    precision = getattr(getattr(torch.backends.cudnn, "conv", None), "fp32_precision", None)
    return torch.backends.cudnn.allow_tf32 if precision is None else precision == "tf32"


def precision_of(dtype: torch.dtype, device: torch.device) -> str:
    """How ``tl.dot`` treats its operands; only float32 has a choice."""
    if dtype == torch.bfloat16 and device.type == "cpu":
        return "widened"
    return "tf32" if dtype == torch.float32 and tf32_allowed() else "ieee"


def out_block(channels: int, dtype: torch.dtype) -> int:
    """How many output channels one program of the plain kernel computes.

    In float32 the weights of 32, which older cards keep in registers, would not fit there.
    """
    return math.gcd(padded(channels), 16 if dtype == torch.float32 else 32)


def _demand_usable(x: Tensor) -> None:
    reason = usable(x.device, x.dtype)
    if reason is not None:
        raise InputError(f"The kernel cannot be used: {reason}.")


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _empty(like: Tensor, channels: int, height: Any, width: Any) -> Tensor:
    return torch.empty(
        (like.shape[0], channels, height, width),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def _empty_answer(like: Tensor) -> Tensor:
    """A class for each pixel ``(N, H, W)``."""
    size = (like.shape[0], like.shape[2], like.shape[3])
    return torch.empty(size, dtype=torch.uint8, device=like.device)


def _run_conv(
    out: Tensor,
    small: Tensor | None,
    full: Tensor | None,
    small_weight: Tensor | None,
    full_weight: Tensor | None,
    bias: Tensor,
    relu: bool,
    tile: int,
) -> Tensor:
    _demand_usable(out)
    from . import launching

    batch, channels, height, width = out.shape
    small_channels = 0 if small is None else small.shape[1]
    full_channels = 0 if full is None else full.shape[1]
    outs = padded(channels)
    block = out_block(channels, out.dtype)
    precision = precision_of(out.dtype, out.device)
    cells = launching.tile_of("conv", tile, out.dtype, precision)
    tiles = -(-height // (2 * cells.height)) * -(-width // (2 * cells.width))
    launching.launch(
        "conv",
        batch * tiles * (outs // block),
        # A kernel never touches the pointer of a map without channels; it gets one that exists.
        (
            out,
            bias if small is None else _channels_last(small),
            bias if full is None else _channels_last(full),
            bias if small_weight is None else small_weight,
            bias if full_weight is None else full_weight,
            bias,
        ),
        (batch, height, width),
        {
            "SMALL": small_channels,
            "FULL": full_channels,
            "CHANNELS": channels,
            "PADDED_SMALL": padded(small_channels),
            "PADDED_FULL": padded(full_channels),
            "OUTS": outs,
            "BLOCK": block,
            "RELU": relu,
            "PRECISION": precision,
        },
        cells,
    )
    return out


def _double_concat_conv(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    skip_weight: Tensor | None,
    bias: Tensor,
    channels: int,
    relu: bool,
    tile: int,
) -> Tensor:
    out = _empty(x, channels, 2 * x.shape[2], 2 * x.shape[3])
    return _run_conv(out, x, skip, weight, skip_weight, bias, relu, tile)


def _conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor, channels: int, relu: bool, tile: int
) -> Tensor:
    out = _empty(x, channels, x.shape[2], x.shape[3])
    return _run_conv(out, None, x, None, weight, bias, relu, tile)


def _conv3x3_head(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    head_weight: Tensor,
    head_bias: Tensor,
    classes: int,
    answer: bool,
    tile: int,
) -> Tensor:
    _demand_usable(x)
    from . import launching

    out = _empty_answer(x) if answer else _empty(x, classes, x.shape[2], x.shape[3])
    batch, channels, height, width = x.shape
    middle = len(bias)
    if x.is_cuda:
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
        programs = processors * PROGRAMS_PER_PROCESSOR
    else:
        programs = INTERPRETED_PROGRAMS
    precision = precision_of(x.dtype, x.device)
    cells = launching.tile_of("head", tile, x.dtype, precision)
    size = programs * 4 * cells.height * cells.width * middle
    scratch = torch.empty(size, dtype=x.dtype, device=x.device)
    launching.launch(
        "head",
        programs,
        (out, _channels_last(x), scratch, weight, bias, head_weight, head_bias),
        (batch, height, width),
        {
            "FULL": channels,
            "CLASSES": classes,
            "PADDED_FULL": padded(channels),
            "MIDDLE": middle,
            "OUTS": len(head_bias),
            "MERGED": merges(classes),
            "ANSWER": answer,
            "PRECISION": precision,
        },
        cells,
    )
    return out


def windows(size: Sequence[Any], geometry: Sequence[Any]) -> tuple[Any, Any]:
    """How many windows there are down and across.

    Args:
        size: Height and width of the image.
        geometry: Height and width of a window, its steps down and across, and the padding.
    """
    down, across = (
        (side + 2 * padding - window) // stride + 1
        for side, window, stride, padding in zip(
            size, geometry[:2], geometry[2:4], geometry[4:], strict=True
        )
    )
    return down, across


def _programs(out: Tensor, cells: launching.Tile, block: int) -> int:
    """One for each tile of the result's pixels, and each block of its channels."""
    tiles = -(-out.shape[2] // cells.height) * -(-out.shape[3] // cells.width)
    return int(out.shape[0]) * tiles * (padded(out.shape[1]) // block)


def _image_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    channels: int,
    geometry: Sequence[int],
    relu: bool,
    tile: int,
) -> Tensor:
    _demand_usable(x)
    from . import launching

    out = _empty(x, channels, *windows(x.shape[2:], geometry))
    precision = precision_of(x.dtype, x.device)
    cells = launching.tile_of("image", tile, x.dtype, precision)
    block = math.gcd(padded(channels), 64)
    names = ("WINDOW_H", "WINDOW_W", "STRIDE_H", "STRIDE_W", "PAD_H", "PAD_W")
    launching.launch(
        "image",
        _programs(out, cells, block),
        (out, _channels_last(x), weight, bias),
        (x.shape[0], x.shape[2], x.shape[3]),
        {
            "FULL": x.shape[1],
            "CHANNELS": channels,
            "OUTS": padded(channels),
            "BLOCK": block,
            **dict(zip(names, geometry, strict=True)),
            "RELU": relu,
            "PRECISION": precision,
        },
        cells,
    )
    return out


def _max_pool(x: Tensor, tile: int) -> Tensor:
    _demand_usable(x)
    from . import launching

    channels = x.shape[1]
    out = _empty(x, channels, *windows(x.shape[2:], POOL))
    cells = launching.tile_of("pool", tile, x.dtype, "")
    block = math.gcd(padded(channels), 64)
    launching.launch(
        "pool",
        _programs(out, cells, block),
        (out, _channels_last(x)),
        (x.shape[0], x.shape[2], x.shape[3]),
        {"CHANNELS": channels, "OUTS": padded(channels), "BLOCK": block},
        cells,
    )
    return out


double_concat_conv = torch.library.custom_op(
    "segzoo::double_concat_conv",
    _double_concat_conv,
    mutates_args=(),
    schema="(Tensor x, Tensor? skip, Tensor weight, Tensor? skip_weight, Tensor bias, "
    "int channels, bool relu, int tile) -> Tensor",
)
conv3x3 = torch.library.custom_op(
    "segzoo::conv3x3",
    _conv3x3,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, int channels, bool relu, int tile) -> Tensor",
)
conv3x3_head = torch.library.custom_op(
    "segzoo::conv3x3_head",
    _conv3x3_head,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, Tensor head_weight, Tensor head_bias, "
    "int classes, bool answer, int tile) -> Tensor",
)
image_conv = torch.library.custom_op(
    "segzoo::image_conv",
    _image_conv,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, int channels, int[] geometry, bool relu, "
    "int tile) -> Tensor",
)
max_pool = torch.library.custom_op(
    "segzoo::max_pool", _max_pool, mutates_args=(), schema="(Tensor x, int tile) -> Tensor"
)


# Shapes for torch.compile and torch.export: an operator and what stands for it take the same.
double_concat_conv.register_fake(
    lambda x, skip, weight, skip_weight, bias, channels, relu, tile: _empty(
        x, channels, 2 * x.shape[2], 2 * x.shape[3]
    )
)
conv3x3.register_fake(
    lambda x, weight, bias, channels, relu, tile: _empty(x, channels, x.shape[2], x.shape[3])
)
conv3x3_head.register_fake(
    lambda x, weight, bias, head_weight, head_bias, classes, answer, tile: (
        _empty_answer(x) if answer else _empty(x, classes, x.shape[2], x.shape[3])
    )
)
image_conv.register_fake(
    lambda x, weight, bias, channels, geometry, relu, tile: _empty(
        x, channels, *windows(x.shape[2:], geometry)
    )
)
max_pool.register_fake(lambda x, tile: _empty(x, x.shape[1], *windows(x.shape[2:], POOL)))
