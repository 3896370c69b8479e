"""One step of a graph that doubles, concatenates and convolves, with several implementations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..._compat import computes_on_cpu
from ...nn.layers import resize
from ...nn.upsample_conv import doubled_kernel, doubles
from ..kernels import DoubleConcatConv, pays, usable
from .fused_conv import (
    ACTIVATIONS,
    TRITON,
    TRITON_ACTIVATIONS,
    FusedConv,
    Geometry,
    checked_kernel,
    run_kernel,
)
from .winograd import WINOGRAD, Part, Winograd
from .winograd import choices as winograd_choices

#: Of the transposed convolution that stands for doubling and a 3x3 convolution.
_TRANSPOSED = Geometry(stride=(2, 2), transposed=True)


class DoubledConv(nn.Module):
    """``act(conv(cat(resize(x), skip, ...)) + bias)``, as :attr:`implementation` says.

    Args:
        conv: The plain convolution with its activation, on ``x`` and then what is beside it.
        in_channels: Channels of ``x``; the rest of the convolution's inputs is what is beside it.
        mode: How ``x`` is resized.

    Attributes:
        implementation: ``plain``; ``split``: two convolutions, no concatenation;
            ``triton`` or ``triton wide``: all of it in one kernel; ``transposed``: the convolution
            of ``x`` on the small map; one of :data:`~.winograd.WINOGRAD`: all of it with fewer
            multiplications, on a CPU.
    """

    def __init__(self, conv: FusedConv, in_channels: int, *, mode: str = "nearest") -> None:
        super().__init__()
        self.mode = mode
        self.in_channels = in_channels
        self.implementations = nn.ModuleDict({"plain": conv})
        above, beside = conv.weight[:, :in_channels], conv.weight[:, in_channels:]
        if beside.shape[1]:
            conv_beside = FusedConv(beside, None, Geometry(), act=conv.act, adds=True)
            conv_beside.overwrites = True  # what it adds to was made by the other one, for it alone
            self.implementations["beside"] = conv_beside
            self.implementations["split"] = FusedConv(above, conv.bias, Geometry())
        self.implementations["transposed"] = FusedConv(
            doubled_kernel(above.double()).to(above.dtype),
            conv.bias,
            _TRANSPOSED,
            act="none" if beside.shape[1] else conv.act,
        )
        for part in self.implementations.children():
            assert isinstance(part, FusedConv)
            part.inner = True
        self.implementation = "transposed"
        #: The Triton kernel; in a tuple, so that copies with other implementations do not share it.
        self._triton: tuple[DoubleConcatConv, ...] = ()
        self._winograd: Winograd | None = None

    def forward(
        self, x: Tensor, skip: Tensor | None, size: tuple[int, int], *more: Tensor
    ) -> Tensor:
        """Maps ``(N, in_channels, h, w)`` and ``(N, C, *size)`` or None -> ``(N, out, *size)``.

        Args:
            more: More maps of that size, concatenated after the skip.
        """
        if self.implementation == "plain" or not doubles(x, size, self.mode):
            return self._plainly(x, skip, size, *more)
        if skip is not None and more:  # beside the doubled map all other implementations know one
            skip = torch.cat([skip, *more], dim=1)
        if self._triton:
            # A map may be larger than the kernel takes.
            if self._triton[0].why_not(x, skip, size) is not None:
                return self._plainly(x, skip, size)
            return run_kernel(self._triton[0], x, skip)
        if self._winograd is not None and self._winograd.takes(x):
            return self._winograd(x) if skip is None else self._winograd(x, skip)
        if self.implementation == "split":
            x = resize(x, size, mode=self.mode)
        x = self._run("split" if self.implementation == "split" else "transposed", x)
        return x if skip is None else self._run("beside", skip, x)

    def _plainly(
        self, x: Tensor, skip: Tensor | None, size: tuple[int, int], *more: Tensor
    ) -> Tensor:
        x = resize(x, size, mode=self.mode)
        return self._run("plain", x if skip is None else torch.cat([x, skip, *more], dim=1))

    def _run(self, name: str, *inputs: Tensor) -> Tensor:
        out: Tensor = self.implementations[name](*inputs)
        return out

    def signature(self) -> tuple[object, ...]:
        """What its speed may depend on, besides its inputs."""
        return ("double", *self.plain.signature())

    def choices(self, x: Tensor) -> list[str]:
        """The implementations there are for an input, the plain one first."""
        # Where torch computes numbers of 16 bits itself, it rounds each part of a sum of two
        # convolutions, and of a transposed one: the plain form alone is rounded once.
        on_cpu = x.device.type == "cpu" and x.dtype.itemsize < torch.float32.itemsize
        if on_cpu and not computes_on_cpu(x.dtype):
            return ["plain"]
        names = [name for name in self.implementations if name not in ("beside", "transposed")]
        names.append("transposed")
        outs, channels = self.plain.weight.shape[:2]
        widths = (self.in_channels, channels - self.in_channels, outs)
        if self.plain.act in TRITON_ACTIVATIONS and pays(*widths, x.dtype):
            names += TRITON if usable(x.device, x.dtype) is None else []
        return [*names, *winograd_choices(self.plain.weight, x, doubled=True)]

    def use(self, implementation: str, x: Tensor) -> None:
        """Compute in that implementation from now on.

        Raises:
            OptimizationError: The Triton kernel does not work where ``x`` is.
        """
        self._triton, self._winograd = (), None
        conv = self.plain
        others = conv.weight.shape[1] - self.in_channels
        if implementation in TRITON:
            kernel = DoubleConcatConv(
                conv.weight, conv.bias, self.in_channels, others, relu=conv.act == "relu"
            )
            self._triton = (checked_kernel(kernel, x, implementation),)
        if implementation in WINOGRAD:
            parts = [Part(self.in_channels, doubled=True), *([Part(others)] if others else [])]
            act, form = ACTIVATIONS[conv.act], implementation
            self._winograd = Winograd(conv.weight, conv.bias, x.shape, parts, act=act, form=form)
        self.implementation = implementation

    def used(self) -> list[FusedConv]:
        """The convolutions that its implementation runs."""
        joined = [
            self.implementation,
            *(["beside"] if self.implementation in ("split", "transposed") else []),
        ]
        found = [self.implementations[name] for name in joined if name in self.implementations]
        return [conv for conv in found if isinstance(conv, FusedConv)]

    @property
    def plain(self) -> FusedConv:
        """The convolution of the concatenation."""
        plain = self.implementations["plain"]
        assert isinstance(plain, FusedConv)
        return plain

    def keep(self) -> None:
        """Stay with the implementation that it has, and forget the weights that only others need.

        The plain one stays: a size that is not twice the map's needs it.
        """
        implementation = (
            "transposed" if self.implementation in WINOGRAD else self.implementation
        )  # for another shape
        needed = {"plain", implementation} | (
            {"beside"} if implementation in ("split", "transposed") else set()
        )
        for name in set(self.implementations) - needed:
            del self.implementations[name]

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return self.implementation
