"""Triton kernels for layers of high resolution, for NVIDIA GPUs.

Each is a module that takes the place of a few layers of an inference model. Triton is imported when
a kernel is first asked for, and every reason why one cannot be used is a sentence to fall back on::

    reason = usable(x.device, x.dtype) or self_check(kernel) or kernel.why_not(x, skip, size)
"""

from .availability import usable
from .balance import image_pays, pays
from .checking import self_check
from .modules import ConvRelu, ConvReluHead, DoubleConcatConv, Kernel
from .stem import ImageConv, MaxPool

__all__ = [
    "ConvRelu",
    "ConvReluHead",
    "DoubleConcatConv",
    "ImageConv",
    "Kernel",
    "MaxPool",
    "image_pays",
    "pays",
    "self_check",
    "usable",
]
