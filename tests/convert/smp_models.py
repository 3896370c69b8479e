"""Models of segmentation_models_pytorch with random statistics, and whether two are the same."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from ..helpers import randomise

smp = pytest.importorskip("segmentation_models_pytorch")

SMALL = (16, 16, 8, 8, 8)


def theirs(encoder: str = "tu-test_resnet", **arguments: Any) -> nn.Module:
    arguments = {"decoder_channels": SMALL, "classes": 2, **arguments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = smp.Unet(encoder, encoder_weights=None, **arguments)
    randomise(model)
    return model.eval()


def assert_same(a: nn.Module, b: nn.Module, *sizes: tuple[int, int], bands: int = 3) -> None:
    dtype = next(a.parameters()).dtype
    a, b = a.eval(), b.eval()
    with torch.no_grad():
        for size in sizes or ((64, 64), (65, 97)):
            image = torch.randn(1, bands, *size, dtype=dtype)
            assert torch.equal(a(image), b(image)), size
