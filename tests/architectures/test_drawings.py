"""Drawings: of the guide, of every architecture on every kind of encoder; and shapes alone."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo._compat import may_have_hooks
from segzoo.architectures.diagram import diagram, steps_of
from segzoo.encoders import build_on_meta
from segzoo.registry import BUILT_IN

from ..architecture_checks import ENCODERS, ON_ANY_ENCODER
from ..helpers import TinyBackbone, needs_timm_1_0_31

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


# print_tree

RESNET34 = """\
DynamicUnet on resnet34.a1_in1k: 3 bands → 2 classes, 41.2 M parameters

stride      encoder        decoder
     1     image  3  ───►  up 99 → refine 99 → head 2
     2     act1  64  ───►  blocks.3 96
     4   layer1  64  ───►  blocks.2 256
     8  layer2  128  ───►  blocks.1 384
    16  layer3  256  ───►  blocks.0 512
    32  layer4  512  ───►  bridge 512
"""


def test_the_drawing_of_the_reference(capsys):
    with torch.device("meta"):
        model = segzoo.DynamicUnet("resnet34", 2)
    model.print_tree()
    assert capsys.readouterr().out == RESNET34
    assert not any(map(may_have_hooks, model.modules()))


KINDS = ("strides 1 to 16", "flat, patch 14", "strides 16 to 64", "strides 8 to 32")


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        *itertools.product(ON_ANY_ENCODER, KINDS),
        # Of timm's: with a map at stride 1, flat, and two whose first maps are coarse.
        *(("unet", name) for name in ("vgg11", "test_vit", "levit_128s")),
        pytest.param("pspnet", "pit_ti_224", marks=needs_timm_1_0_31),
    ],
)
def test_every_architecture_can_be_drawn(architecture, encoder, capsys):
    def build():
        backbone = ENCODERS[encoder]() if encoder in ENCODERS else encoder
        return segzoo.ARCHITECTURES[architecture](backbone, 2)

    model = build_on_meta(build)
    model.print_tree()
    out = capsys.readouterr().out
    rows = [line.split()[0] for line in out.splitlines()[3:] if line.split()[0].isdigit()]
    assert rows[0] == "1"
    assert {str(feature.stride) for feature in model.features} <= set(rows)
    entered = {index for step in steps_of(model) for index in step.inputs if index >= 0}
    assert len(entered) >= len(model.features) - 1
    assert "───►" in out
    assert "head 2" in out


def test_a_model_of_ones_own_can_be_drawn(capsys):
    segzoo.DynamicUnet(TinyBackbone(3), classes=3).half().print_tree()
    assert "map 1  8  ───►  bridge 8" in capsys.readouterr().out
