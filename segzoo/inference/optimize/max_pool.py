"""The maximum of 3x3 windows after a ReLU: on a GPU in a kernel of our own, on a CPU in integers.

torch keeps, beside each maximum, where it was found: on a GPU that is up to four times as much to
write as the maximum. On a CPU precisions of 16 bits are what is slow.

Floating point numbers that are not negative have the order of the integers with the same bits, and
a NaN lies above infinity there. Of integers a processor compares 32 at a time; of bfloat16 and
float16 torch turns each into float32 and back. A window's maximum is taken along rows, then along
columns: 4 comparisons in place of 8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..kernels import MaxPool, usable
from .fuse_epilogues import activation, replace_step
from .fused_conv import FusedConv, checked_kernel, run_kernel
from .trace import module_at, simplify

#: All bits but the sign: a ReLU may leave -0 and negative NaN, which are 0 and NaN all the same.
_NO_SIGN = 0x7FFF
#: Bytes of the map that are worked on together, so that they stay in the cache.
_BYTES = 1 << 20


class PooledRelu(nn.Module):
    """``max_pool2d(x, 3, 2, padding=1)`` of a map without negative numbers.

    Attributes:
        implementation: ``plain``, ``integers``, or ``triton``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.implementation = "plain"
        #: The Triton kernel; in a tuple, so that copies with other implementations do not share it.
        self._triton: tuple[MaxPool, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, C, ceil(H / 2), ceil(W / 2))``."""
        if self.implementation == "integers" and not torch.compiler.is_compiling():
            bits = x.permute(0, 2, 3, 1).view(torch.int16)
            return _pooled(bits).view(x.dtype).permute(0, 3, 1, 2)
        if self._triton and self._triton[0].why_not(x) is None:
            return run_kernel(self._triton[0], x)
        return F.max_pool2d(x, 3, 2, padding=1)

    def signature(self) -> tuple[object, ...]:
        """What its speed may depend on, besides its input."""
        return ("pool",)

    def choices(self, x: Tensor) -> list[str]:
        """The implementations there are for an input, the plain one first."""
        fits = x.device.type == "cpu" and x.dtype.itemsize == 2
        # Plane by plane there are no channels side by side to be compared at once.
        fits = fits and x.is_contiguous(memory_format=torch.channels_last)
        triton = usable(x.device, x.dtype) is None
        return ["plain", *(["integers"] if fits else []), *(["triton"] if triton else [])]

    def use(self, implementation: str, x: Tensor) -> None:
        """Compute in that implementation from now on.

        Raises:
            OptimizationError: The Triton kernel does not work where ``x`` is.
        """
        self._triton = ()
        if implementation == "triton":
            self._triton = (checked_kernel(MaxPool(x.shape[1]), x, implementation),)
        self.implementation = implementation

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return self.implementation


def _pooled(bits: Tensor) -> Tensor:
    """``(N, H, W, C)`` -> ``(N, ceil(H / 2), ceil(W / 2), C)``."""
    images, height, width, channels = bits.shape
    out = bits.new_empty(images, (height + 1) // 2, (width + 1) // 2, channels)
    strip = max(1, _BYTES // (2 * images * width * channels * bits.itemsize))
    for row in range(0, out.shape[1], strip):
        # A row more above the first window, where there is one.
        above = int(row > 0)
        rows = bits[:, 2 * row - above : 2 * (row + strip)]
        if int(rows.amin()) < 0:  # rarely: so the map need not be copied to take off signs
            rows = rows & _NO_SIGN
        even, odd = rows[:, above::2], rows[:, above + 1 :: 2]
        if even.shape == odd.shape:
            even = torch.maximum(even, odd)
        else:  # the last row has none below it
            even = even.clone()
            _raise(even, odd)
        _raise(even[:, 1 - above :], rows[:, 0::2] if above else odd)
        left, right, place = even[:, :, 0::2], even[:, :, 1::2], out[:, row : row + strip]
        # What lies beyond an odd side's end counts as 0, which raises nothing.
        both = right.shape[2]
        torch.maximum(left[:, :, :both], right, out=place[:, :, :both])
        place[:, :, both:] = left[:, :, both:]
        _raise(place[:, :, 1:], right)
    return out


def _raise(target: Tensor, other: Tensor) -> None:
    """The maximum of both where they overlap, in place of the first, along rows and columns."""
    height, width = (min(target.shape[axis], other.shape[axis]) for axis in (1, 2))
    target = target[:, :height, :width]
    torch.maximum(target, other[:, :height, :width], out=target)


def pool_after_relu(graph: fx.GraphModule) -> int:
    """Replace max-pooling of what a ReLU gave by :class:`PooledRelu`, in place.

    Args:
        graph: Its epilogues fused.

    Returns:
        How many were replaced.
    """
    replaced = 0
    for node in list(graph.graph.nodes):
        if _halves(module_at(graph, node)) and _is_relu(graph, node.args[0]):
            # One for each step: a pool that is called twice may read something else there.
            replace_step(graph, node, node, PooledRelu(), (node.args[0],))
            replaced += 1
    simplify(graph)
    return replaced


def _halves(pool: nn.Module | None) -> bool:
    """Whether it takes the maximum of 3x3 windows, each second one."""
    if type(pool) is not nn.MaxPool2d or pool.ceil_mode or pool.return_indices:
        return False
    wanted = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 1}
    return all(getattr(pool, name) in (side, (side, side)) for name, side in wanted.items())


def _is_relu(graph: fx.GraphModule, node: object) -> bool:
    """Whether a step ends with a ReLU."""
    if not isinstance(node, fx.Node):
        return False
    step = module_at(graph, node)
    if isinstance(step, FusedConv):
        return step.act == "relu"
    return activation(graph, node) == "relu"
