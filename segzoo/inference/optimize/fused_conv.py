"""A convolution with what follows it: bias, an addition, an activation, in one step where possible.

Six implementations of the same values. ``torch`` calls the operations one after the other.
``onednn`` (CPU) and ``cudnn`` (NVIDIA GPUs) hand all of them to the library at once, which writes
the map to memory once instead of up to four times; ``triton`` does so in a kernel of our own, for
3x3 convolutions and those of an image; ``winograd`` (CPU) multiplies less, for 3x3 convolutions of
many channels, and ``squares`` (CPU) wastes less, for those with few outputs. Which of them helps
depends on the shape: see :mod:`~segzoo.inference.optimize.autotune`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._compat import (
    computes_on_cpu,
    convolve,
    convolve_and_add,
    convolve_onto,
    convolve_transposed,
    packed_transposed,
)
from ...errors import OptimizationError
from ..kernels import ConvRelu, ImageConv, Kernel, image_pays, pays, self_check, usable
from .few_outputs import FewOutputs
from .winograd import WINOGRAD, Winograd
from .winograd import choices as winograd_choices

AnyKernel = TypeVar("AnyKernel", bound=Kernel)

#: Activations by name; each writes into what it is given. GELU torch offers so as an operator only.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu_,
    "swish": lambda x: F.silu(x, inplace=True),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "gelu": torch.ops.aten.gelu_,
    "gelu_tanh": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
}
#: What oneDNN calls those that have another name there: name and kind.
_KINDS = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}
#: Activations that the Triton kernels know.
TRITON_ACTIVATIONS = ("none", "relu")
#: The Triton kernels by implementation: the same, in the first or the second of their tiles.
TRITON = {"triton": 0, "triton wide": 1}
#: Outputs up to which squares are tried.
_FEW = 4


def checked_kernel(kernel: AnyKernel, x: Tensor, implementation: str) -> AnyKernel:
    """A Triton kernel where its maps are, once it has shown there that it is right.

    Args:
        kernel: With weights of any type, anywhere.
        x: The map.
        implementation: A name of :data:`TRITON`.

    Raises:
        OptimizationError: It is not, or cannot be compiled.
    """
    kernel = kernel.to(x.device, x.dtype)
    kernel.tile = TRITON[implementation]
    reason = self_check(kernel)
    if reason is not None:
        raise OptimizationError(reason)
    return kernel


def run_kernel(kernel: Kernel, *maps: Tensor | None) -> Tensor:
    """What a Triton kernel gives."""
    out: Tensor = kernel(*maps)
    return out


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over its input."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    transposed: bool = False

    @classmethod
    def of(cls, conv: nn.Conv2d | nn.ConvTranspose2d) -> Geometry | None:
        """That of a module; None where it does more than a plain convolution with zero padding."""
        plain = type(conv) in (nn.Conv2d, nn.ConvTranspose2d) and conv.padding_mode == "zeros"
        if not plain or isinstance(conv.padding, str) or any(conv.output_padding):
            return None
        transposed = isinstance(conv, nn.ConvTranspose2d)
        return cls(conv.stride, conv.padding, conv.dilation, conv.groups, transposed)


class FusedConv(nn.Module):
    """``act(conv(x) + bias [+ other])``.

    Args:
        weight: As the convolution of that geometry takes it.
        bias: One value for each output, or None.
        geometry: How it walks.
        act: A name of :data:`ACTIVATIONS`.
        adds: Whether there is an ``other`` to add.

    Attributes:
        kernel: What computes it: ``torch``, ``triton`` (or ``triton wide``), ``onednn``,
            ``cudnn``, ``squares``, or one of :data:`~.winograd.WINOGRAD`.
        overwrites: Whether ``other`` is lost: nobody reads it afterwards, so that the sum may take
            its place.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        *,
        act: str = "none",
        adds: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.geometry = geometry
        self.act = act
        self.adds = adds
        self.overwrites = False
        self.kernel = "torch"
        #: Part of a step that has a Triton kernel of its own, which does more.
        self.inner = False
        self._packed: Tensor | None = None
        #: The Triton kernel; in a tuple, so that copies with other kernels do not share it.
        self._triton: tuple[ConvRelu | ImageConv, ...] = ()
        #: Where the kernel is one of these; it does not take every map.
        self._algorithm: Winograd | FewOutputs | None = None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """``(N, C, H, W)`` and, where it adds, a map of the output's shape -> the output."""
        # That of older versions of torch adds no map of a single cell.
        if self.kernel == "onednn" and (other is None or other.shape[-2:] != (1, 1)):
            return self._onednn(x, other)
        if self.kernel == "cudnn":
            return self._cudnn(x, other)
        if self._triton and self._triton[0].why_not(x) is None:
            return run_kernel(self._triton[0], x)
        if self._algorithm is not None and self._algorithm.takes(x):
            return self._algorithm(x, other=other)
        g = self.geometry
        if g.transposed:
            out = F.conv_transpose2d(
                x, self.weight, self.bias, g.stride, g.padding, 0, g.groups, g.dilation
            )
        else:
            out = F.conv2d(x, self.weight, self.bias, g.stride, g.padding, g.dilation, g.groups)
        if other is not None:
            out = out.add_(other)
        return ACTIVATIONS[self.act](out)

    def use(self, kernel: str, x: Tensor) -> None:
        """Compute with that kernel from now on; ``x`` is an input of the shape that matters most.

        Raises:
            Exception: Whatever the library raises for a shape or a type that it does not take.
        """
        self._packed = self._pack(x) if kernel == "onednn" else None
        self._triton = ()
        if kernel in TRITON:
            self._triton = (checked_kernel(self._kernel(), x, kernel),)
        self._algorithm = None
        act = ACTIVATIONS[self.act]
        if kernel in WINOGRAD:
            self._algorithm = Winograd(self.weight, self.bias, x.shape, act=act, form=kernel)
        if kernel == "squares":
            self._algorithm = FewOutputs(self.weight, self.bias, act=act)
        self.kernel = kernel

    def release(self) -> None:
        """Back to the plain implementation, and without what another one needs."""
        self.kernel, self._packed, self._triton, self._algorithm = "torch", None, (), None

    def choices(self, x: Tensor) -> list[str]:
        """Those to be tried on an input; whether one works for its shape is seen by trying."""
        g, names = self.geometry, ["torch"]
        plain = g == Geometry() and self.weight.shape[2:] == (3, 3)
        if self._kernel_pays(plain, x.dtype) and usable(x.device, x.dtype) is None:
            names += TRITON
        onednn = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if onednn and not (g.transposed and self.adds):
            names += ["onednn"] if computes_on_cpu(x.dtype) else []
            if plain:
                names += winograd_choices(self.weight, x)
            if plain and len(self.weight) <= _FEW:
                names.append("squares")
        if x.device.type == "cuda" and torch.backends.cudnn.is_available():
            names += ["cudnn"] if self.act == "relu" and not g.transposed else []
        return names

    def _kernel_pays(self, plain: bool, dtype: torch.dtype) -> bool:
        """Whether there is a Triton kernel of what it does, and memory is what takes the time."""
        if self.adds or self.inner or self.act not in TRITON_ACTIVATIONS:
            return False
        outs, channels = self.weight.shape[:2]
        if plain and pays(0, channels, outs, dtype):
            return True
        g = self.geometry
        windows = g.dilation == (1, 1) and g.groups == 1 and not g.transposed
        return windows and image_pays(self.weight.shape, g.stride, dtype)

    def _kernel(self) -> ConvRelu | ImageConv:
        """Its Triton kernel."""
        relu = self.act == "relu"
        if not image_pays(self.weight.shape, self.geometry.stride, self.weight.dtype):
            return ConvRelu(self.weight, self.bias, relu=relu)
        (down, across), (above, left) = self.geometry.stride, self.geometry.padding
        return ImageConv(
            self.weight, self.bias, stride=(down, across), padding=(above, left), relu=relu
        )

    def signature(self) -> tuple[object, ...]:
        """What its speed may depend on, besides its inputs."""
        return (self.geometry, self.act, self.adds, tuple(self.weight.shape))

    def _pack(self, x: Tensor) -> Tensor:
        """The weight in the order that oneDNN wants for inputs like ``x``."""
        g, size = self.geometry, list(x.shape)
        if g.transposed:
            return packed_transposed(
                self.weight.contiguous(), g.padding, (0, 0), g.stride, g.dilation, g.groups, size
            )
        reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight
        packed: Tensor = reorder(
            self.weight.to_mkldnn(), g.padding, g.stride, g.dilation, g.groups, size
        )
        return packed

    def _onednn(self, x: Tensor, other: Tensor | None) -> Tensor:
        g = self.geometry
        place = (g.stride, g.dilation, g.groups)
        act, kind = _KINDS.get(self.act, (self.act, ""))
        if g.transposed:
            return convolve_transposed(
                x, self._packed, self.bias, g.padding, (0, 0), *place, act, [], kind
            )
        if other is None:
            return convolve(x, self._packed, self.bias, g.padding, *place, act, [], kind)
        then = None if act == "none" else act
        add = convolve_onto if self.overwrites else convolve_and_add
        return add(x, other, self._packed, self.bias, g.padding, *place, "add", 1.0, then, [], kind)

    def _cudnn(self, x: Tensor, other: Tensor | None) -> Tensor:
        g, aten = self.geometry, torch.ops.aten
        place = (g.stride, g.padding, g.dilation, g.groups)
        out: Tensor
        if other is None:
            out = aten.cudnn_convolution_relu(x, self.weight, self.bias, *place)
        else:
            out = aten.cudnn_convolution_add_relu(x, self.weight, other, 1.0, self.bias, *place)
        return out

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        adds = " + other" if self.adds else ""
        return f"{tuple(self.weight.shape)}, {self.act}(conv{adds}) by {self.kernel}"
