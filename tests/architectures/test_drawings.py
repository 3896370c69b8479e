"""The drawings in docs/architectures.md are what print_tree gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.encoders import build_on_meta
from segzoo.registry import BUILT_IN

GUIDE = Path(__file__).parents[2] / "docs" / "architectures.md"
DRAWINGS = re.findall(r"```text\n((\w+) on ([\w.]+): .*?)\n```", GUIDE.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("drawing", "kind", "encoder"), DRAWINGS, ids=[kind for _, kind, _ in DRAWINGS]
)
def test_the_drawing_is_the_model_s(drawing, kind, encoder):
    assert diagram(build_on_meta(lambda: getattr(segzoo, kind)(encoder))) == drawing


def test_there_are_drawings():
    assert {kind for _, kind, _ in DRAWINGS} >= {"DPT", "FCN", "LRASPP"}


@pytest.mark.parametrize("kind", BUILT_IN)
def test_shapes_can_be_had_without_values(kind):
    """On the meta device, which has no autocast, in every mode."""
    arguments = {
        "MultiHead": {"heads": {"a": segzoo.Head("unet", 2), "b": segzoo.Head("fpn")}},
        "DynamicUnet": {"classes": 3},
    }
    encoder = "test_vit" if kind == "EoMT" else "test_resnet"
    model = build_on_meta(lambda: getattr(segzoo, kind)(encoder, **arguments.get(kind, {})))
    image = torch.empty(2, 3, 65, 97, device="meta")
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            found = model.eval()(image)
        assert found.shape == (2, model.classes, 65, 97), mode
