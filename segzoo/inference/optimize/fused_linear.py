"""A linear layer with what follows it: an activation or an addition, in one step where possible.

Three implementations of the same values. ``torch`` calls operation after operation; ``onednn``
(CPU) hands all of them to the library at once, with a weight that lies as the processor reads it.
``float32`` (CPU, of a lower precision) computes in single precision and rounds what comes out:
processors without units for matrices of bfloat16 may be quicker so, and it is no less exact.
Which one is quicker is found by :mod:`~segzoo.inference.optimize.autotune`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._compat import linear, linear_and_add, packed_linear, packs_linear
from .fused_conv import ACTIVATIONS as CONV_ACTIVATIONS

#: Activations by name, and what oneDNN calls each: its name and its kind.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "none": (lambda x: x, "none", ""),
    "relu": (torch.relu_, "relu", ""),
    "gelu": (CONV_ACTIVATIONS["gelu"], "gelu", "none"),
    "gelu_tanh": (CONV_ACTIVATIONS["gelu_tanh"], "gelu", "tanh"),
}


class FusedLinear(nn.Module):
    """``act(linear(x))``, or ``linear(x) + other``.

    Args:
        weight: ``(outputs, inputs)``.
        bias: One value for each output, or None.
        act: A name of :data:`ACTIVATIONS`.
        adds: Whether there is an ``other`` to add; then without an activation.

    Attributes:
        kernel: What computes it: ``torch``, ``onednn`` or ``float32``.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, act: str = "none", adds: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.act = act
        self.adds = adds
        self.kernel = "torch"
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """``(..., inputs)`` and, where it adds, what goes to ``(..., outputs)`` -> the latter."""
        alike = other is None or other.shape == (*x.shape[:-1], len(self.weight))
        if self.kernel == "onednn" and alike:
            if other is not None:
                return linear_and_add(x, other.contiguous(), self._packed, self.bias, "add")
            _, name, kind = ACTIVATIONS[self.act]
            return linear(x, self._packed, self.bias, name, [], kind)
        if self.kernel == "float32" and self._packed is not None:
            bias = None if self.bias is None else self.bias.float()
            return self._rest(F.linear(x.float(), self._packed, bias), other, alike).to(x.dtype)
        return self._rest(F.linear(x, self.weight, self.bias), other, alike)

    def _rest(self, out: Tensor, other: Tensor | None, alike: bool) -> Tensor:
        """What follows the layer."""
        if other is not None:
            # Another one may be larger.
            return out.add_(other) if alike else out + other
        return ACTIVATIONS[self.act][0](out)

    def use(self, kernel: str, x: Tensor) -> None:
        """Compute with that kernel from now on; ``x`` is an input of the shape that matters most.

        Raises:
            Exception: Whatever the library raises for a shape or a type that it does not take.
        """
        rows = x.numel() // max(x.shape[-1], 1)
        self._packed = self.weight.float() if kernel == "float32" else None
        if kernel == "onednn":
            self._packed = packed_linear(self.weight, rows)
        self.kernel = kernel

    def choices(self, x: Tensor) -> list[str]:
        """Those to be tried on an input."""
        if x.device.type != "cpu" or x.dtype == torch.float64:
            return ["torch"]
        names = ["torch"] if x.dtype == torch.float32 else ["torch", "float32"]
        return [*names, "onednn"] if packs_linear(x.dtype) else names

    def signature(self) -> tuple[object, ...]:
        """What its speed may depend on, besides its inputs."""
        return ("linear", self.act, self.adds, self.bias is None, tuple(self.weight.shape))

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        adds = " + other" if self.adds else ""
        return f"{tuple(self.weight.shape)}, {self.act}(linear{adds}) by {self.kernel}"
