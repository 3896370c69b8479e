"""timm's networks with maps taken at other places: the same layers, other maps."""

from __future__ import annotations

import pytest
import timm
import torch

import segzoo
from segzoo.encoders import build_on_meta
from segzoo.encoders.recipes import BUILT_IN, RECIPES, Recipe
from segzoo.encoders.tapped import Tapped
from segzoo.errors import ArgumentError, EncoderError


def test_every_recipe_is_of_a_network_of_timm():
    assert {recipe.model for recipe in RECIPES.values()} <= set(timm.list_models())


def test_maps_have_the_strides_of_stages():
    # Larger relatives repeat what these show; benchmarks/parity/smp_encoders.py takes all.
    large = ("b4", "b5", "b6", "b7", "b8", "l2", "lite3", "lite4", "161", "201")
    for name in RECIPES:
        if not name.endswith(large):
            backbone = build_on_meta(segzoo.encoders.ENCODERS[name])
            assert [item.stride for item in backbone.features] == [2, 4, 8, 16, 32], name
            whole = backbone.whole_state()
            for key, value in backbone.state_dict().items():
                assert whole[key].shape == value.shape, (name, key)


@pytest.mark.parametrize("name", ["tv_mobilenetv3_large", "smp_efficientnet_b1"])
def test_what_is_known_of_one(name):
    info = segzoo.encoder_info(name)
    assert info.strides == (2, 4, 8, 16, 32)
    assert info.size_rule.kind == "any"
    assert not info.pretrained_tags
    assert info.normalization.mean == (0.485, 0.456, 0.406)


@torch.no_grad()
@pytest.mark.parametrize("name", ["tv_mobilenetv3_large", "smp_mobilenet_v2", "smp_densenet121"])
def test_maps_are_those_behind_the_layers(name):
    recipe = RECIPES[name]
    whole = timm.create_model(recipe.model, **recipe.options).eval()
    for layer in recipe.bare:
        whole.get_submodule(layer).act = torch.nn.Identity()
    encoder = segzoo.create_encoder(name).eval()
    expected = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    own = encoder.backbone.state_dict()
    encoder.backbone.load_state_dict({key: expected[key.replace(".", "_")] for key in own})
    found = {}
    for place in recipe.maps:
        whole.get_submodule(place).register_forward_hook(
            lambda _, __, made, place=place: found.update({place: made.clone()})
        )
    image = torch.randn(1, 3, 97, 130)
    whole(image)
    for place, item in zip(recipe.maps, encoder(image), strict=True):
        assert torch.equal(item, found[place]), place


def test_depth_leaves_out_what_only_deeper_maps_need():
    whole, part = (segzoo.create_encoder("smp_mobilenet_v2", depth=d) for d in (None, 2))
    assert part.channels == whole.channels[:2]
    assert len(list(part.parameters())) < len(list(whole.parameters())) / 2
    with pytest.raises(ArgumentError, match="depth must be between 1 and 5 for 'smp_mobilenet_v2'"):
        segzoo.create_encoder("smp_mobilenet_v2", depth=6)


def test_it_is_an_encoder_like_any_other(tmp_path):
    model = segzoo.Unet("smp_densenet121", classes=2, in_channels=4, depth=3).eval()
    model.freeze_encoder(1)
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    image = torch.rand(1, 4, 97, 130)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    assert loaded.config.encoder == "smp_densenet121"
    assert set(BUILT_IN) <= set(segzoo.list_encoders("*"))
    assert segzoo.DeepLabV3("smp_mobilenet_v2").encoder.strides == (2, 4, 8, 8, 8)


def test_what_cannot_be_is_refused():
    with pytest.raises(EncoderError, match="no pretrained weights for 'smp_mobilenet_v2' alone"):
        segzoo.create_encoder("smp_mobilenet_v2", pretrained=True)
    with pytest.raises(EncoderError, match=r"no layer blocks\.99 in 'mobilenetv2_100'"):
        Tapped(Recipe("mobilenetv2_100", ("bn1", "blocks.99")), 3, {})
