"""transformers' EoMT, on DINOv2 and DINOv3, converted and compared with transformers' own.

    python -m benchmarks.parity.eomt          all of it, resumes where it stopped
    python -m benchmarks.parity.eomt small    the cases with that in their backbone's name: printed

Random weights, eval mode, images of four sizes (transformers takes squares of one size, so each has
its model), in float32 and in float64, without masks and within them. In float64 transformers' masks
are in single precision, which only its "eager" attention takes, so that is what computes with them.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.common import write_result
from segzoo.convert import from_transformers

SIDES = (64, 96, 160, 224)
#: Kind -> backbone -> channels, blocks, heads, query blocks.
BACKBONES: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "DINOv2": {
        "small": (384, 12, 6, 3),
        "base": (768, 12, 12, 3),
        "large": (1024, 24, 16, 4),
    },
    "DINOv3": {
        "small": (384, 12, 6, 3),
        "base": (768, 12, 12, 3),
        "large": (1024, 24, 16, 4),
    },
}
QUERIES, CLASSES = 20, 19


def theirs(
    kind: str, backbone: str, side: int, *, queries: int = QUERIES, classes: int = CLASSES
) -> Any:
    """transformers' model with random weights."""
    channels, depth, heads, blocks = BACKBONES[kind][backbone]
    options = {
        "hidden_size": channels,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_blocks": blocks,
        "num_queries": queries,
        "num_labels": classes,
        "image_size": side,
    }
    torch.manual_seed(0)
    if kind == "DINOv2":
        config = transformers.EomtConfig(**options)
        model = transformers.EomtForUniversalSegmentation(config)
    else:
        config = transformers.EomtDinov3Config(intermediate_size=4 * channels, **options)
        model = transformers.EomtDinov3ForUniversalSegmentation(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "token" in name or "position" in name:
            scale = "lambda" in name or ("norm" in name and "weight" in name)
            nn.init.normal_(parameter, 0.5 if scale else 0.0, 0.2)
    return model.eval()


def gap(found: Tensor, expected: Tensor) -> dict[str, float]:
    """The largest difference, beside the largest value."""
    return {
        "difference": float((found - expected).abs().max()),
        "largest": float(expected.abs().max()),
    }


@torch.no_grad()
def compare(kind: str, backbone: str, side: int) -> list[dict[str, Any]]:
    """A row for each precision, with and without masks."""
    rows = []
    model = theirs(kind, backbone, side)
    for dtype in (torch.float32, torch.float64):
        model = model.to(dtype)
        model.attn_mask_probs.zero_()  # with them the converter warns
        ours = from_transformers(model.state_dict(), model.config.to_dict())
        image = torch.randn(2, 3, side, side, dtype=dtype)
        for masked in (False, True):
            eager = masked and dtype is torch.float64
            model.set_attn_implementation("eager" if eager else "sdpa")
            model.attn_mask_probs.fill_(float(masked))
            expected = model(pixel_values=image)
            found = ours.forward_queries(image, attention_mask_probability=float(masked))
            rows.append(
                {
                    "kind": kind,
                    "backbone": backbone,
                    "side": side,
                    "dtype": str(dtype).removeprefix("torch."),
                    "masked": masked,
                    "masks": gap(found.mask_logits, expected.masks_queries_logits),
                    "classes": gap(found.class_logits, expected.class_queries_logits),
                }
            )
    return rows


def cases() -> Iterator[tuple[str, str, int]]:
    """Kind, backbone and side of every comparison."""
    for kind, backbones in BACKBONES.items():
        for backbone in backbones:
            for side in SIDES:
                yield kind, backbone, side


def main() -> None:
    """Parse, compare what is missing, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbone", nargs="?", help="only these, without a record")
    only = parser.parse_args().backbone
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    log = Path(f".eomt-parity-{transformers.__version__}.jsonl")
    rows = [] if only or not log.exists() else list(map(json.loads, log.read_text().splitlines()))
    done = {(row["kind"], row["backbone"], row["side"]) for row in rows}
    for case in cases():
        if case in done or (only and only not in case[1]):
            continue
        found = compare(*case)
        rows += found
        for row in found:
            print(json.dumps(row), flush=True)
        if not only:
            with log.open("a") as file:  # all rows of a case at once: it is whole or missing
                file.write("".join(json.dumps(row) + "\n" for row in found))
    if not only:
        versions = {"transformers": transformers.__version__}
        write_result("eomt_parity", {"versions": versions, "sides": list(SIDES)}, rows=rows)


if __name__ == "__main__":
    main()
