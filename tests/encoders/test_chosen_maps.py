"""Which of an encoder's maps a decoder is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import segzoo
from segzoo.architectures.wants import Wants, make_maps
from segzoo.encoders import Encoder
from segzoo.encoders.dilation import OutputStride
from segzoo.encoders.timm_source import plan_backbone
from segzoo.features import FeatureSpec


def test_maps_beyond_the_coarsest_are_not_computed():
    whole = segzoo.create_encoder("test_resnet")
    encoder = segzoo.create_encoder("test_resnet", coarsest=8)
    assert encoder.strides == (2, 4, 8)
    assert not any("layer3" in name or "layer4" in name for name, _ in encoder.named_modules())
    assert encoder.stages() == segzoo.create_encoder("test_resnet", depth=3).stages()
    assert whole.strides == (2, 4, 8, 16, 32)


@pytest.mark.parametrize(
    ("name", "arguments", "strides"),
    [
        ("test_resnet", {"coarsest": 8}, (2, 4, 8)),
        ("test_resnet", {"coarsest": 8, "output_stride": 8}, (2, 4, 8, 8, 8)),
        ("test_resnet", {"coarsest": 8, "options": {"out_indices": [1, 2, -1]}}, (4, 8)),
        ("test_vit", {"coarsest": 8}, (16, 16, 16, 16)),
        ("mit_b0", {"coarsest": 8}, (4, 8, 16, 32)),
    ],
)
def test_an_encoder_without_its_coarsest_maps_is_saved_as_it_is(tmp_path, name, arguments, strides):
    encoder = segzoo.create_encoder(name, **arguments)
    assert encoder.strides == strides
    model = segzoo.FCN(encoder, classes=2).eval()
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert loaded.encoder.strides == strides
    image = torch.rand(1, 3, 64, 97)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))


@pytest.mark.parametrize(
    ("name", "arguments", "strides"),
    [
        ("test_resnet", {"coarsest": 8, "depth": 2}, (2, 4)),
        ("test_resnet", {"coarsest": 8, "depth": 4}, (2, 4, 8)),
        ("test_resnet", {"coarsest": 8, "output_stride": 8}, (2, 4, 8, 8, 8)),
        ("test_resnet", {"coarsest": 8, "output_stride": 16}, (2, 4, 8)),
        ("test_resnet", {"coarsest": 8, "options": {"out_indices": (1, 2, 4)}}, (4, 8)),
        ("shvit_s1", {"coarsest": 8}, (16,)),  # there is no finer one
        ("test_vit", {"coarsest": 8}, (16, 16, 16, 16)),
    ],
)
def test_the_smaller_of_depth_and_coarsest_counts(name, arguments, strides):
    plan = plan_backbone(
        name,
        **{
            **arguments,
            "output_stride": OutputStride(arguments["output_stride"])
            if "output_stride" in arguments
            else None,
        },
    )
    assert tuple(item.stride for item in plan.features) == strides


def features(*strides: int) -> list[FeatureSpec]:
    return [FeatureSpec(8 * (i + 1), stride) for i, stride in enumerate(strides)]


@pytest.mark.parametrize(
    ("strides", "wants", "expected"),
    [
        ((2, 4, 8, 16, 16), Wants(), (2, 4, 8, 16)),
        ((2, 4, 8, 16, 16), Wants(own_maps=True), (2, 4, 8, 16, 16)),
        ((2, 4, 8, 16, 16), Wants(doubles=True, finest=4), (4, 8, 16, 16)),
        ((2, 4, 8, 16, 16), Wants(doubles=True, finest=4, ends=True), (4, 16)),
        ((2, 4, 8, 16, 16), Wants(own_maps=True, most=1), (16,)),
        ((2, 4, 8, 16, 32), Wants(coarsest=8), (2, 4, 8)),
        ((16, 32), Wants(coarsest=8), (16,)),
        ((16, 16, 16, 16), Wants(own_maps=True, most=1), (16,)),
        ((16, 16, 16, 16), Wants(doubles=True), (4, 8, 16, 32)),
        ((16, 16, 16, 16), Wants(doubles=True, output_stride=16), (4, 8, 16, 16)),
        ((16, 16, 16, 16), Wants(doubles=True, output_stride=16, ends=True), (4, 16)),
        ((14, 14, 14), Wants(doubles=True, output_stride=32), (7, 14, 28)),
        ((16, 16, 16, 16), Wants(finest=8, most=2), (16, 32)),
        ((16, 16), Wants(doubles=True, ends=True, output_stride=16), (16, 16)),
    ],
)
def test_what_a_decoder_is_given(strides, wants, expected):
    specs = features(*strides)
    maps = make_maps(Encoder(nn.Identity(), specs, name="maps"), wants)
    found = tuple(item.stride for item in maps.features)
    assert found == expected
    given = [torch.rand(1, item.channels, 64 // item.stride, 64 // item.stride) for item in specs]
    made = maps(given)
    assert [item.shape[1] for item in made] == [item.channels for item in maps.features]
    assert len(maps.named([str(i) for i in range(len(specs))])) == len(made)
    # What is left out has no weights that would never get a gradient.
    if list(maps.parameters()):
        sum(item.sum() for item in made).backward()
    assert all(item.grad is not None for item in maps.parameters())
