"""Models in folders, for the tests that save, load or damage them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
from torch import nn

import segzoo

FILES = ["README.md", "config.json", "model.safetensors"]


def small(classes: int = 2, **options: object) -> segzoo.Unet:
    return segzoo.Unet(
        "test_resnet", classes=classes, decoder_channels=(16, 8, 8, 8, 8), **options
    ).eval()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def logits(model: nn.Module) -> torch.Tensor:
    weight = next(model.parameters())
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 3 * 64 * 48).reshape(1, 3, 64, 48).to(weight.dtype))


CONFIG, WEIGHTS = "config.json", "model.safetensors"


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_header(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
