"""The Unet against segmentation_models_pytorch, on the same weights.

    python -m benchmarks.parity.smp

Random weights and BatchNorm statistics are renamed from smp's model into ours. In float32 the
logits are compared bit for bit in eval mode; in float64 the gradients and running statistics are
compared after a training step.
"""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

import segzoo
from benchmarks.common import randomise, write_result
from segzoo.convert.keymap import check_fits, rename
from segzoo.convert.smp.unet import CONVERTER

#: Every name of smp's Unet in ours.
RULES = ((r"^encoder\.(?:model\.)?", "encoder.backbone."), *CONVERTER.rules)
SIZES = ((256, 256), (65, 97), (33, 500))
#: Our arguments; smp's are derived from them.
CASES: tuple[dict[str, Any], ...] = (
    {},
    {"depth": 3, "decoder_channels": (64, 32, 16)},
    {"depth": 4, "decoder_channels": (128, 64, 32, 16)},
    {"in_channels": 1},
    {"in_channels": 4},
    {"attention": "scse"},
    {"interpolation": "bilinear"},
)


def make_pair(arguments: dict[str, Any], encoder: str = "resnet34") -> tuple[nn.Module, nn.Module]:
    """smp's model with random weights and statistics, and ours with the same."""
    attention = arguments.get("attention")
    theirs = smp.Unet(
        encoder,
        encoder_weights=None,
        classes=3,
        encoder_depth=arguments.get("depth", 5),
        decoder_channels=arguments.get("decoder_channels", (256, 128, 64, 32, 16)),
        decoder_attention_type=attention,
        decoder_interpolation=arguments.get("interpolation", "nearest"),
        in_channels=arguments.get("in_channels", 3),
    )
    randomise(theirs)
    ours = segzoo.Unet(encoder, classes=3, **arguments)
    used = rename(theirs.state_dict(), RULES)
    # smp keeps weights that its forward never uses: stages below the depth, and the attention on
    # the concatenation in the last block, which has none.
    expected = ours.state_dict()
    last = len(ours.decoder.blocks) - 1
    unused = [
        name
        for name in used.keys() - expected.keys()
        if name.startswith(("encoder.", f"decoder.blocks.{last}.attention1"))
    ]
    used = {name: tensor for name, tensor in used.items() if name not in unused}
    check_fits(ours, used, source="smp")
    ours.load_state_dict(used)
    return theirs, ours


@torch.no_grad()
def eval_difference(theirs: nn.Module, ours: nn.Module, size: tuple[int, int]) -> float:
    """Largest absolute difference of the logits in eval mode, float32."""
    bands = next(theirs.parameters()).shape[1]
    image = torch.randn(2, bands, *size)
    return float((theirs.eval()(image) - ours.eval()(image)).abs().max())


def step_difference(theirs: nn.Module, ours: nn.Module, size: tuple[int, int]) -> float:
    """Largest relative difference of gradients and running statistics after a float64 step."""
    theirs, ours = theirs.double().train(), ours.double().train()
    bands = next(theirs.parameters()).shape[1]
    image = torch.randn(2, bands, *size, dtype=torch.float64)
    target = torch.randint(0, 3, (2, *size))
    for model in (theirs, ours):
        model.zero_grad()
        nn.functional.cross_entropy(model(image), target).backward()
    ours_named = dict(ours.named_parameters()) | dict(ours.named_buffers())
    theirs_all = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
    worst = 0.0
    for name, value in rename(theirs_all, RULES).items():
        if name not in ours_named:
            continue
        other = ours_named[name]
        if isinstance(value, nn.Parameter):
            if value.grad is None:  # a weight that smp never uses
                continue
            value, other = value.grad, other.grad
        scale = value.double().abs().max().clamp_min(1e-30)
        worst = max(worst, float((value.double() - other.double()).abs().max() / scale))
    return worst


def main() -> None:
    """Run every case and write the record."""
    torch.manual_seed(0)
    rows = []
    for arguments in CASES:
        pair = make_pair(arguments)
        row: dict[str, Any] = {"arguments": arguments}
        row["eval_max_difference_float32"] = {
            f"{h}x{w}": eval_difference(*pair, (h, w)) for h, w in SIZES
        }
        row["step_max_relative_difference_float64"] = step_difference(*pair, (65, 97))
        print(row)
        rows.append(row)
    write_result("parity", {"encoder": "resnet34", "cases": rows})


if __name__ == "__main__":
    main()
