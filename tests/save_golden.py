"""The models that a release leaves behind for tests/storage/test_golden.py: ``python -m tests.save_golden``.

One small model of each architecture, as the release saves it, an image and the logits. What a
released version has written is never written again.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import segzoo

from .helpers import randomise

DATA = Path(__file__).with_name("data")
#: A folder that every clone of the project carries for ever.
MOST_BYTES = 300_000
#: timm has no smaller plain transformer.
MORE_BYTES = {"eomt": 1_600_000}

#: Four bands and odd sides, so that no default and no round number hides a difference.
COMMON: dict[str, Any] = {
    "classes": 3,
    "in_channels": 4,
    "class_names": ("road", "sky", "other"),
    "normalization": segzoo.Normalization((0.4, 0.5, 0.3, 0.2), (0.2, 0.3, 0.25, 0.1)),
}
SIDES = (33, 47)

#: What makes each architecture small, and uses the options whose weights have names of their own.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "unet": {
        "encoder": "test_convnext",
        "depth": 2,
        "decoder_channels": (16, 8, 8),
        "attention": "scse",
    },
    "dynamic_unet": {
        "encoder": "test_byobnet",
        "depth": 2,
        "norm": "spectral",
        "bottle": True,
        "y_range": (-2.0, 3.0),
    },
    "unetplusplus": {
        "encoder": "test_convnext",
        "depth": 2,
        "decoder_channels": (16, 8, 8),
        "attention": "scse",
    },
    "manet": {
        "encoder": "test_convnext",
        "depth": 2,
        "decoder_channels": (8, 8, 8),
        "attention_channels": 8,
    },
    "linknet": {"encoder": "test_convnext", "depth": 2},
    "fpn": {
        "encoder": "test_convnext",
        "depth": 2,
        "pyramid_channels": 16,
        "decoder_channels": 16,
        "merge": "cat",
    },
    "upernet": {"encoder": "test_convnext", "depth": 2, "decoder_channels": 8},
    "segformer": {"encoder": "test_convnext", "depth": 2, "decoder_channels": 16},
    "pspnet": {"encoder": "test_convnext", "decoder_channels": 16},
    "deeplabv3": {"encoder": "test_convnext", "depth": 2, "decoder_channels": 8},
    "deeplabv3plus": {"encoder": "test_convnext", "depth": 2, "decoder_channels": 8},
    "pan": {"encoder": "test_convnext", "depth": 2, "decoder_channels": 8},
    "dpt": {
        "encoder": "test_convnext",
        "depth": 2,
        "readout": "project",
        "decoder_channels": 8,
        "reassemble_channels": (8, 12),
        "refine_deepest": False,
    },
    "eomt": {"encoder": "test_vit", "queries": 3, "blocks": 1, "upscale_layers": 1},
    "fcn": {"encoder": "test_convnext", "depth": 2, "decoder_channels": 8},
    "lraspp": {"encoder": "test_convnext", "depth": 2, "decoder_channels": 8},
    "linear_head": {"encoder": "test_convnext", "depth": 2},
    "multi_head": {
        "encoder": "test_convnext",
        "depth": 2,
        "heads": {
            "first": segzoo.Head("linear_head", 3, class_names=("road", "sky", "other")),
            "second": segzoo.Head("fcn", 2, options={"decoder_channels": 8}),
        },
    },
}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bits."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def save_golden(architecture: str, folder: Path) -> None:
    """Save one model as ``folder/architecture`` and what it computes beside it."""
    torch.manual_seed(0)
    model = segzoo.ARCHITECTURES[architecture](**COMMON, **ARGUMENTS[architecture]).eval()
    randomise(model)
    image = torch.randn(1, COMMON["in_channels"], *SIDES)
    with torch.inference_mode():
        logits = model(image)
    path = model.save_pretrained(folder / architecture)
    save_file(
        {"image": image, "logits": logits.contiguous()},
        folder / f"{architecture}.safetensors",
        metadata={"weights_sha256": digest(model.state_dict())},
    )
    size = sum(file.stat().st_size for file in path.iterdir())
    most = MORE_BYTES.get(architecture, MOST_BYTES)
    if size > most:
        raise SystemExit(f"{path} has {size} bytes; make the model smaller, {most} are enough.")


def main() -> None:
    folder = DATA / f"saved-by-{segzoo.__version__}"
    if folder.exists():
        raise SystemExit(f"{folder} is there already: a released version's models are kept.")
    without = sorted(set(segzoo.ARCHITECTURES) - set(ARGUMENTS))
    if without:
        raise SystemExit(f"Say in ARGUMENTS what makes these architectures small: {without}.")
    with tempfile.TemporaryDirectory() as whole:  # so that a failure leaves nothing behind
        for architecture in ARGUMENTS:
            save_golden(architecture, Path(whole))
        shutil.copytree(whole, folder)


if __name__ == "__main__":
    main()
