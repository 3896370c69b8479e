"""FCN and LRASPP; tests/convert compares them with torchvision's."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.errors import ArgumentError

from ..architecture_checks import (
    Chain,
    Maps,
    assert_everyday,
    assert_exported,
    assert_supervised,
)

KINDS = (segzoo.FCN, segzoo.LRASPP)
NARROW = {"decoder_channels": 8}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_few_maps_and_every_norm(kind, norm):
    model = kind("test_resnet", depth=1, norm=norm, **NARROW)
    assert model.train()(torch.rand(1, 3, 33, 50)).shape == (1, 1, 33, 50)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_daily_use(kind, tmp_path):
    assert_everyday(kind("test_resnet", classes=2, **NARROW), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_for_other_sizes(kind, tmp_path):
    assert_exported(kind(Chain(2, 4), classes=2, **NARROW), tmp_path / "m.onnx")


def test_the_width_of_fcn_is_a_quarter_of_the_map_s():
    assert segzoo.FCN("test_resnet").decoder.out.channels == 24
    assert segzoo.FCN(Maps(8)).decoder.out.channels == 1


def test_the_deep_branch_is_gated_by_the_whole_image():
    model = segzoo.LRASPP(Maps(8, 16), classes=2, **NARROW).eval()
    with torch.no_grad():
        maps = [torch.rand(1, 4, 16, 16), torch.rand(1, 5, 8, 8)]
        torch.nn.init.zeros_(model.decoder.gate.conv.weight)
        half = model.decoder(maps)
        projected = model.decoder.project(maps[1])
        expected = torch.nn.functional.interpolate(0.5 * projected, (16, 16), mode="bilinear")
    assert torch.equal(half, expected)


def test_steps_have_names():
    assert_supervised(segzoo.FCN("test_resnet", deep_supervision=("conv",), **NARROW))
    steps = ("project", "fine_head")
    model = segzoo.LRASPP("test_resnet", classes=2, deep_supervision=steps, **NARROW)
    assert_supervised(model)
    assert "fine_head 2" in diagram(model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder_channels": 8193}, "decoder_channels must be between 1 and 8192, got 8193"),
        ({"decoder_channels": "8"}, "decoder_channels must be an integer"),
        ({"atrous_rates": (1, 2)}, "has no argument 'atrous_rates'"),
    ],
    ids=str,
)
def test_wrong_options(kind, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        kind("test_resnet", **arguments)
