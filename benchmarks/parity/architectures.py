"""Every architecture of smp that is here, converted and compared with smp's own.

    python -m benchmarks.parity.architectures

Random weights and BatchNorm statistics; eval mode, float32, two sizes. What smp cannot build on an
encoder, and what is refused, is recorded as that.
"""

from __future__ import annotations

import warnings
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

from benchmarks.common import randomise, write_result
from segzoo.convert import from_smp
from segzoo.convert.smp.architecture import converters
from segzoo.errors import ConversionError

#: smp's own, timm's of strides 2 to 32 and 4 to 32, one with a map at stride 1, one of NHWC maps, a
#: flat vision transformer.
ENCODERS = (
    *("resnet18", "resnet50", "vgg11_bn", "mit_b0", "tu-mobilenetv3_small_050"),
    *("tu-convnext_atto", "tu-test_mambaout", "tu-vit_tiny_patch16_224"),
)
#: What smp has to be told so that a flat vision transformer takes images of another size.
OPTIONS = {"tu-vit_tiny_patch16_224": {"dynamic_img_size": True}}
SIZES = ((128, 128), (192, 256))


def compare(kind: str, encoder: str) -> dict[str, Any]:
    """The largest difference at each size, beside the largest logit."""
    make: Any = getattr(smp, kind)
    try:
        options = OPTIONS.get(encoder, {})
        theirs: nn.Module = make(encoder, encoder_weights=None, classes=3, **options)
    except Exception as error:  # smp fails in many ways on encoders that it was not made for
        return {"smp": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    randomise(theirs)
    try:
        ours = from_smp(theirs.eval()).eval()
    except ConversionError as error:
        return {"refused": str(error)[:160]}
    result: dict[str, Any] = {}
    for size in SIZES:
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected, found = theirs(image), ours(image)
        result["x".join(map(str, size))] = {
            "difference": float((found - expected).abs().max()),
            "largest": float(expected.abs().max()),
        }
    return result


def main() -> None:
    """Compare and write the record."""
    torch.manual_seed(0)
    rows = []
    for name, converter in converters().items():
        for encoder in ENCODERS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what both libraries build on
                found = compare(converter.name, encoder)
            rows.append({"architecture": name, "encoder": encoder, **found})
            print(rows[-1], flush=True)
    write_result("architecture_parity", {"sizes": [list(size) for size in SIZES], "rows": rows})


if __name__ == "__main__":
    main()
