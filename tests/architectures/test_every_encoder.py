"""Architectures on encoders of every kind, and with every norm on few maps."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.nn.layers import NORMS

from ..architecture_checks import ENCODERS, assert_takes

#: Architectures that take whatever there is, with options that keep them small.
SMALL = {
    segzoo.DeepLabV3Plus: {"decoder_channels": 8},
    segzoo.FCN: {"decoder_channels": 8},
    segzoo.FPN: {"pyramid_channels": 16, "decoder_channels": 8},
    segzoo.Linknet: {},
    segzoo.LRASPP: {"decoder_channels": 8},
    segzoo.MAnet: {},
    segzoo.PAN: {"decoder_channels": 8},
    segzoo.PSPNet: {"decoder_channels": 16},
    segzoo.Segformer: {"decoder_channels": 16},
    segzoo.UnetPlusPlus: {},
    segzoo.UPerNet: {"decoder_channels": 16},
}
#: Those whose blocks climb to the image, with an option of each.
CLIMBING = {
    segzoo.Linknet: {"dropout": 0.5},
    segzoo.MAnet: {"attention": "scse"},
    segzoo.UnetPlusPlus: {"attention": "scse"},
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("architecture", SMALL)
def test_encoders_of_every_kind(architecture, encoder):
    assert_takes(architecture, encoder, **SMALL[architecture])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("architecture", CLIMBING)
def test_every_norm_and_few_maps_to_climb_from(architecture, norm):
    for depth in (1, 2):
        model = architecture("test_resnet", depth=depth, norm=norm, **CLIMBING[architecture])
        assert model(torch.rand(2, 3, 33, 50)).shape == (2, 1, 33, 50)
