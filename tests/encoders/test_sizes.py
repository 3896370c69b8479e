import warnings

import pytest
import timm
import torch

import segzoo
from segzoo.encoders import timm_flexible
from segzoo.encoders.sizes import SizeRule, find_size_rule, sizes_to_build_for
from segzoo.errors import ArgumentError, EncoderError

from ..helpers import assert_near, assert_same_tensors, needs_timm_1_0_31


@pytest.mark.parametrize(
    ("accepts", "rule"),
    [
        (lambda size: True, SizeRule()),
        (lambda size: min(size) >= 29, SizeRule(minimum=29)),
        (lambda size: all(side % 32 == 0 for side in size), SizeRule(multiple=32, minimum=32)),
        (
            lambda size: all(side % 14 == 0 and side >= 28 for side in size),
            SizeRule(multiple=14, minimum=28),
        ),
        (lambda size: size == (224, 192), SizeRule(fixed=(224, 192))),
    ],
)
def test_a_rule_is_found_by_trying(accepts, rule):
    assert find_size_rule(accepts, (224, 192)) == rule


@pytest.mark.parametrize("own", [True, False])
def test_a_backbone_that_takes_one_size_or_none_is_known_soon(own):
    asked = []

    def accepts(size):
        asked.append(size)
        return own and size == (384, 384)

    if own:
        assert find_size_rule(accepts, (384, 384)) == SizeRule(fixed=(384, 384))
    else:
        with pytest.raises(EncoderError, match="its own size, 384x384"):
            find_size_rule(accepts, (384, 384))
    assert len(asked) < 10


@needs_timm_1_0_31
@pytest.mark.parametrize("side", [384, 9001])
def test_the_search_for_a_size_to_build_for_is_bounded(monkeypatch, side):
    """Of this backbone no build but one takes any image, and there are dozens of builds."""
    asked = []

    def accepts(run, features, image, *, channels_last):
        asked.append(tuple(image.shape[-2:]))
        return asked[-1] == (480, 480)

    monkeypatch.setattr(timm_flexible, "accepts", accepts)
    _, rule, options = timm_flexible.most_flexible(
        "crossvit_tiny_240", {}, (480, 480), (side, side)
    )
    assert rule.fixed == (480, 480)
    assert options == ({"img_size": (480, 480)} if side == 384 else {})
    assert len(asked) < 40


@pytest.mark.parametrize(
    ("rule", "fitted"),
    [
        (SizeRule(), (50, 37)),
        (SizeRule(multiple=32, minimum=32), (64, 64)),
        (SizeRule(minimum=40), (50, 40)),
        (SizeRule(multiple=14, minimum=56), (56, 56)),
        (SizeRule(fixed=(24, 30)), (24, 30)),
        (SizeRule(fixed=(64, 64), padded=(50, 37)), (64, 64)),
    ],
)
def test_fit_and_restore_keep_every_pixel_in_its_place(rule, fitted):
    image = torch.rand(2, 3, 50, 37)
    inside = rule.fit(image)
    assert inside.shape == (2, 3, *fitted)
    outside = rule.restore(inside, (50, 37))
    assert outside.shape == image.shape
    if rule.pads(image):
        assert torch.equal(outside, image)
        assert not inside[..., 50:, :].any()
        assert not inside[..., 37:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_size_is_had_in_every_precision(dtype):
    rule, image = SizeRule(fixed=(64, 48)), torch.rand(1, 3, 80, 97).to(dtype)
    fitted = rule.fit(image)
    assert fitted.dtype == dtype
    assert torch.equal(fitted, rule.fit(image.float()).to(dtype))
    assert rule.restore(fitted, (80, 97)).shape == image.shape


def test_rules_say_what_they_do():
    assert str(SizeRule()) == "any"
    assert str(SizeRule(minimum=29)) == "any, from 29 pixels"
    assert str(SizeRule(multiple=32, minimum=32)) == "multiples of 32: images are padded"
    assert str(SizeRule(fixed=(224, 224))) == "only 224x224: other images are resized"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("resnet18", "any"),
        ("convnext_atto", "any, from 32 pixels"),
        ("dla34", "multiples of 32: images are padded"),
        ("vit_tiny_patch16_224", "any"),  # built with a dynamic size
        ("levit_128s", "only 224x224: other images are resized"),
    ],
)
def test_rules_of_real_backbones(name, rule):
    assert str(segzoo.encoder_info(name).size_rule) == rule


@pytest.mark.parametrize("size", [(65, 97), (20, 20), (3, 200)])
@pytest.mark.parametrize("name", ["dla34", "convnext_atto", "vit_tiny_patch16_224"])
def test_no_size_is_too_small_or_too_odd(name, size):
    model = segzoo.Unet(name, classes=2).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, *size)).shape == (1, 2, *size)


def test_padding_changes_nothing_where_nothing_is_padded():
    model = segzoo.Unet("dla34", classes=2).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        plain = model.decode(model.pyramid(model.encoder(image)), image)
        assert torch.equal(model(image), plain)


def test_a_locked_backbone_warns_once_and_names_the_way_out():
    model = segzoo.Unet("levit_128s", classes=2).eval()
    with pytest.warns(
        UserWarning, match=r"takes 224x224 images only.*image_size=\(height, width\)"
    ):
        assert model(torch.rand(1, 3, 100, 130)).shape == (1, 2, 100, 130)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.rand(1, 3, 224, 224))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("levit_128s", "only 112x144 (100x130 is padded to it): other images are resized"),
        ("vit_tiny_patch16_224", "any"),
        ("resnet18", "any"),
    ],
)
def test_image_size_builds_for_that_size(name, rule, tmp_path):
    model = segzoo.Unet(name, classes=2, image_size=(100, 130)).eval()
    assert str(model.encoder.size_rule) == rule
    image = torch.rand(1, 3, 100, 130)
    logits = model(image)  # no warning
    assert logits.shape == (1, 2, 100, 130)
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert_same_tensors(loaded, model)
    assert_near(loaded(image), logits)


def test_sizes_to_build_for_grow():
    sizes = sizes_to_build_for((250, 317))
    assert sizes[0] == (250, 317)
    assert (256, 320) in sizes
    assert all(height >= 250 and width >= 317 for height, width in sizes)


@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride_is_passed_on_where_it_works(stride):
    model = segzoo.Unet("resnet18", encoder_options={"output_stride": stride}).eval()
    assert model.encoder.stride == stride
    assert model.features[-1].channels == 512
    assert model(torch.rand(1, 3, 65, 50)).shape == (1, 1, 65, 50)


@pytest.mark.parametrize(
    ("name", "stride", "possible"),
    [
        ("vit_tiny_patch16_224", 8, "none but its own"),
        ("resnet18", 4, "8, 16, 32"),
        ("dla34", 8, "32"),
    ],
)
def test_output_stride_is_refused_where_it_does_not(name, stride, possible):
    with pytest.raises(EncoderError, match=f"output_stride={stride}; possible: {possible}"):
        segzoo.create_encoder(name, options={"output_stride": stride})


def test_a_backbone_built_with_timm():
    backbone = timm.create_model("dla34", features_only=True, in_chans=4, out_indices=(1, 2, 3))
    model = segzoo.Unet(backbone, classes=2, in_channels=4)
    assert backbone.training  # probing leaves the module as it was
    assert str(model.encoder.size_rule).startswith("multiples of 8")
    assert model.normalization.mean == (0.485, 0.456, 0.406, 0.485)
    assert model.eval()(torch.rand(1, 4, 33, 50)).shape == (1, 2, 33, 50)
    with pytest.raises(ArgumentError, match=r"built for in_channels=4, and .* Give in_channels=4"):
        segzoo.Unet(backbone)
    gray = timm.create_model("test_vit", features_only=True, in_chans=1)
    with pytest.raises(ArgumentError, match=r"built for in_channels=1, and .* Give in_channels=1"):
        segzoo.Unet(gray)
    with pytest.raises(ArgumentError, match="needs features_only=True"):
        segzoo.Unet(timm.create_model("resnet18"))
