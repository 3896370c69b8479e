"""What each architecture costs on three kinds of encoders: weights, and operations of one image.

python -m benchmarks.architectures

Counted on the meta device, so it takes a minute and needs no memory. What smp's model of the same
name costs stands beside it where smp has one and can build it on that encoder.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import write_result
from segzoo.architectures.base import create_model
from segzoo.convert.smp.architecture import rival
from segzoo.encoders import build_on_meta
from segzoo.encoders.positions import PositionsHaveValues
from segzoo.errors import EncoderError
from segzoo.registry import BUILT_IN

#: Strides 2 to 32, 4 to 32, and maps that are all of stride 16.
ENCODERS = ("resnet34", "convnext_atto", "vit_tiny_patch16_224")
CLASSES, SIZE = 19, 512


def cost(build: Callable[[], nn.Module]) -> dict[str, float]:
    """Millions of weights, and 10^9 floating point operations (a multiply-add counts as two)."""
    model = build_on_meta(build).eval().requires_grad_(False)
    image = torch.empty(1, 3, SIZE, SIZE, device="meta")
    with PositionsHaveValues(), FlopCounterMode(display=False) as counter:
        model(image)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters_m": round(weights / 1e6, 2),
        "gflops": round(counter.get_total_flops() / 1e9, 1),
    }


def smp_cost(kind: str, encoder: str) -> dict[str, float] | None:
    """The same of smp's model, or None where smp cannot build or run it."""
    names = [encoder] if encoder in smp.encoders.get_encoder_names() else [f"tu-{encoder}"]
    make: Any = getattr(smp, kind)
    try:
        return cost(lambda: make(names[0], encoder_weights=None, classes=CLASSES))
    except Exception:  # smp fails in many ways on encoders that it was not made for
        return None


def main() -> None:
    """Count and write the record."""
    rows = []
    for name, arch in BUILT_IN.items():
        for encoder in ENCODERS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what both libraries build on
                try:
                    ours = cost(lambda a=arch, e=encoder: create_model(a, e, CLASSES))
                except EncoderError:
                    continue  # an encoder of a kind that the architecture does not take
                kind = rival(arch)
                theirs = None if kind is None else smp_cost(kind, encoder)
            rows.append({"architecture": name, "encoder": encoder, "segzoo": ours, "smp": theirs})
            print(rows[-1], flush=True)
    write_result("architectures", {"size": SIZE, "classes": CLASSES, "rows": rows})


if __name__ == "__main__":
    main()
