"""Whether the kernels can be used here: reasons, not exceptions, so that a caller can fall back."""

from __future__ import annotations

import functools
import os

import torch

#: What the kernels compute in; sums are float32.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
#: What tensor cores for bfloat16 and TF32 begin with.
CAPABILITY = (8, 0)
#: What torch 2.8 brings.
TRITON = (3, 4)


def usable(device: torch.device, dtype: torch.dtype) -> str | None:
    """None where the kernels run, else why they do not.

    With ``TRITON_INTERPRET=1`` in the environment they run on the CPU, very slowly, for tests.
    """
    if dtype not in DTYPES:
        known = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
        return f"the kernels compute in {known}, not in {str(dtype).removeprefix('torch.')}"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return _triton() or _interpreting()
    if device.type != "cuda":
        return f"the kernels are for NVIDIA GPUs, and the device is {device}"
    if torch.version.hip is not None:
        return "the kernels are for NVIDIA GPUs, and this torch is built for ROCm"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return "the kernels need compute capability {}.{}, this GPU has {}.{}".format(
            *CAPABILITY, *capability
        )
    return _triton()


@functools.cache
def _triton() -> str | None:
    """None where Triton can be imported and is recent enough."""
    try:
        import triton
    except Exception as error:  # a broken installation fails in many ways
        return f"Triton cannot be imported: {error}"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < TRITON:
        return f"the kernels need Triton {TRITON[0]}.{TRITON[1]}, this is {triton.__version__}"
    return None


def _interpreting() -> str | None:
    from . import launching

    if not launching.INTERPRETED:
        return "TRITON_INTERPRET was set after Triton had been imported: set it before"
    return None
