"""A kernel against torch, on small random maps, before it is trusted on a device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...devices import lacks_memory
from .availability import usable
from .modules import ConvRelu, ConvReluHead, DoubleConcatConv, Kernel
from .operators import tf32_allowed
from .stem import ImageConv, MaxPool

_KINDS = (DoubleConcatConv, ConvRelu, ConvReluHead, ImageConv, MaxPool)
#: How much larger than torch's own an error may be, root of the mean square: both round the same
#: values to the same type, in another order.
FACTOR = 1.5
#: In Triton's interpreter, which cuts float32 to bfloat16 where a GPU rounds: twice the error, and
#: of one sign, so that the head sums it up.
CUT_FACTOR = 4.0
#: Half a unit in the last place of TF32. torch may, and for small maps may not, compute in it.
TF32_ROUNDING = 2.0**-11


def self_check(kernel: Kernel) -> str | None:
    """None where such a kernel gives on its device what torch gives, else what went wrong.

    Compiles and runs a kernel with the same widths, type and device on random weights and small
    maps, and compares its error against float64 with that of torch's convolution in the same type.
    The answer is kept for each kind, widths, type, tile and device. What is compiled here is what
    runs on maps of every other size.
    """
    bias = kernel.bias
    kind = _KINDS.index(type(kernel))
    try:
        return _checked(
            kind,
            kernel.widths,
            bias.device,
            bias.dtype,
            tf32_allowed(),
            kernel.tile,
            kernel.relu,
        )
    except Exception as error:
        if not lacks_memory(error):
            raise
        # May go better another time, so it is not kept.
        return f"the kernel could not be tried: {str(error)[:200]}"


@functools.cache
def _checked(
    index: int,
    widths: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    tf32: bool,
    tile: int,
    relu: bool,
) -> str | None:
    reason = usable(device, dtype)
    if reason is not None:
        return reason
    kind = _KINDS[index]
    weights, maps = trial(kind, widths)
    try:
        kernel = made(kind, widths, weights).to(device, dtype)
        kernel.tile, kernel.relu = tile, relu
        with torch.no_grad():
            ours = kernel(*(None if x is None else x.to(device, dtype) for x in maps))
    except Exception as error:  # a compiler or a driver fails in many ways
        if lacks_memory(error):
            raise
        return f"the kernel does not run: {type(error).__name__}: {str(error)[:200]}"
    return compared(ours, kind, widths, weights, maps, relu=relu)


def compared(
    ours: Tensor,
    kind: type[Kernel],
    widths: tuple[int, ...],
    weights: Sequence[Tensor],
    maps: Sequence[Tensor | None],
    *,
    relu: bool = True,
) -> str | None:
    """None where a kernel's result is as near to float64 as torch's, else by how much it is not."""
    device, dtype = ours.device, ours.dtype
    cast = [None if x is None else x.to(device, dtype) for x in maps]
    theirs = by_torch(
        kind, widths, [weight.to(device, dtype) for weight in weights], cast, relu=relu
    )
    exact = by_torch(
        kind,
        widths,
        [weight.to(device, torch.float64) for weight in weights],
        [None if x is None else x.double() for x in cast],
        relu=relu,
    )
    mine, other = (((out.double() - exact).square().mean().sqrt().item()) for out in (ours, theirs))
    cut = device.type == "cpu" and dtype == torch.bfloat16
    # torch's own error may be zero by chance; half a unit in the last place never is too much.
    rounded = device.type == "cuda" and dtype == torch.float32 and tf32_allowed()
    rounding = TF32_ROUNDING if rounded else torch.finfo(dtype).eps / 2
    floor = rounding * exact.square().mean().sqrt().item()
    allowed = (CUT_FACTOR if cut else FACTOR) * max(other, floor)
    if mine <= allowed:  # false for NaN
        return None
    return f"its error against float64 is {mine:.3g}, torch's is {other:.3g}"


def by_torch(
    kind: type[Kernel],
    widths: tuple[int, ...],
    weights: Sequence[Tensor],
    maps: Sequence[Tensor | None],
    *,
    relu: bool = True,
) -> Tensor:
    """What a kernel of those widths stands for, as torch computes it.

    With a ReLU after the first convolution.
    """
    x = maps[0]
    assert x is not None
    if kind is MaxPool:
        return F.max_pool2d(x, 3, 2, padding=1)
    if kind is DoubleConcatConv:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = x if maps[1] is None else torch.cat([x, maps[1]], dim=1)
    stride, padding = (widths[4:6], widths[6:]) if kind is ImageConv else ((1, 1), (1, 1))
    x = F.conv2d(x, weights[0], weights[1], stride, padding)
    x = F.relu(x) if relu else x
    return F.conv2d(x, weights[2], weights[3], padding=1) if kind is ConvReluHead else x


def trial(
    kind: type[Kernel], widths: tuple[int, ...], *, batch: int = 2, size: tuple[int, int] = (5, 9)
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Random float32 weights and maps for a kernel of those widths; always the same ones."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def conv(channels: int, outs: int, rows: int = 3, columns: int = 3) -> list[Tensor]:
        values = channels * rows * columns
        return [random(outs, channels, rows, columns) / values**0.5, random(outs)]

    maps: list[Tensor | None] = [random(batch, widths[0], *size)]
    if kind is DoubleConcatConv:
        small, full, outs = widths
        maps.append(random(batch, full, 2 * size[0], 2 * size[1]) if full else None)
        return conv(small + full, outs), maps
    if kind is MaxPool:
        return [], maps
    if kind is ImageConv:
        channels, outs, rows, columns = widths[:4]
        image = random(batch, channels, max(size[0], rows), max(size[1], columns))
        return conv(channels, outs, rows, columns), [image]
    if kind is ConvRelu:
        return conv(*widths), maps
    return conv(*widths[:2]) + conv(*widths[1:]), maps


def made(kind: type[Kernel], widths: tuple[int, ...], weights: Sequence[Tensor]) -> Kernel:
    """A kernel of those widths with weights of :func:`trial`."""
    if kind is DoubleConcatConv:
        return DoubleConcatConv(weights[0], weights[1], widths[0], widths[1])
    if kind is ConvRelu:
        return ConvRelu(weights[0], weights[1])
    if kind is ImageConv:
        stride, padding = (widths[4], widths[5]), (widths[6], widths[7])
        return ImageConv(weights[0], weights[1], stride=stride, padding=padding)
    if kind is MaxPool:
        return MaxPool(widths[0])
    return ConvReluHead(*weights)
