"""A decoder's last convolution and the head in one step.

Both work at the image's own resolution, where writing the map between them and reading it again
costs more than computing it. A Triton kernel keeps its tiles in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ..kernels import ConvReluHead, pays, usable
from ..kernels.modules import MAX_FUSED_CHANNELS
from .fuse_epilogues import only_user, replace_step
from .fused_conv import TRITON, FusedConv, Geometry, checked_kernel, run_kernel
from .trace import module_at, simplify


class HeadedConv(nn.Module):
    """``head(conv(x))``.

    Args:
        conv: 3x3, with a ReLU.
        head: 3x3, on what ``conv`` gives.

    Attributes:
        implementation: ``plain``: one after the other; ``triton`` or ``triton wide``: both in one
            kernel.
    """

    def __init__(self, conv: FusedConv, head: FusedConv) -> None:
        super().__init__()
        self.conv = conv
        self.head = head
        self.implementation = "plain"
        #: The Triton kernel; in a tuple, so that copies with other implementations do not share it.
        self._triton: tuple[ConvReluHead, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> logits ``(N, classes, H, W)``."""
        # A map may be larger than the kernel takes.
        if self._triton and self._triton[0].why_not(x) is None:
            return run_kernel(self._triton[0], x)
        logits: Tensor = self.head(self.conv(x))
        return logits

    @property
    def decides(self) -> bool:
        """Whether it can give classes without logits."""
        return self.implementation in TRITON

    def classes_of(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the class of each pixel ``(N, H, W)``, where it :attr:`decides`."""
        return self._triton[0].classes_of(x)

    def signature(self) -> tuple[object, ...]:
        """What its speed may depend on, besides its input."""
        return ("head", *self.conv.signature(), *self.head.signature())

    def choices(self, x: Tensor) -> list[str]:
        """The implementations there are for an input, the plain one first."""
        outs, channels = self.conv.weight.shape[:2]
        kernels = pays(0, channels, outs, x.dtype) and usable(x.device, x.dtype) is None
        # In float32 there is one tile.
        tiles = [name for name, tile in TRITON.items() if tile == 0 or x.dtype != torch.float32]
        return ["plain", *(tiles if kernels else [])]

    def use(self, implementation: str, x: Tensor) -> None:
        """Compute in that implementation from now on.

        Raises:
            OptimizationError: The Triton kernel does not work where ``x`` is.
        """
        self._triton = ()
        if implementation in TRITON:
            conv, head = self.conv, self.head
            kernel = ConvReluHead(conv.weight, conv.bias, head.weight, head.bias)
            self._triton = (checked_kernel(kernel, x, implementation),)
        self.implementation = implementation

    def used(self) -> list[FusedConv]:
        """The convolutions that its implementation runs."""
        return [self.conv, self.head] if self.implementation == "plain" else []

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return self.implementation


def join_head(graph: fx.GraphModule) -> int:
    """Replace a convolution and the head after it by :class:`HeadedConv`, in place.

    Args:
        graph: The decoder, its epilogues fused.

    Returns:
        How many were replaced.
    """
    joined = 0
    for node in list(graph.graph.nodes):
        conv, following = _conv(graph, node), only_user(node)
        head = _conv(graph, following)
        if conv is None or head is None or following is None:
            continue
        if conv.act == "relu" and head.act == "none":
            replace_step(graph, node, following, HeadedConv(conv, head), (node.args[0],))
            joined += 1
    simplify(graph)
    return joined


def _conv(graph: fx.GraphModule, node: fx.Node | None) -> FusedConv | None:
    """The convolution that a step is, if the kernel takes such a one."""
    step = module_at(graph, node)
    if not isinstance(step, FusedConv) or step.geometry != Geometry() or step.adds:
        return None
    small = step.weight.shape[2:] == torch.Size((3, 3)) and len(step.weight) <= MAX_FUSED_CHANNELS
    return step if small else None
