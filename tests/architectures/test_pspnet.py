"""PSPNet: smp's logits to the bit, daily use, and options."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.convert import from_smp
from segzoo.errors import ArgumentError

from ..architecture_checks import (
    Chain,
    Maps,
    assert_everyday,
    assert_exported,
    assert_refused,
    assert_same_logits,
    assert_same_step,
    assert_supervised,
    randomise_all,
    smp_model,
)
from ..helpers import TinyBackbone

NARROW = {"decoder_channels": 16}


@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        ("resnet18", {}),
        ("resnet18", {"encoder_depth": 5, "upsampling": 32, "psp_out_channels": 32}),
        ("tu-test_convnext2", {"psp_out_channels": 48, "decoder_use_norm": False}),
        (
            "tu-test_resnet",
            {
                "encoder_depth": 2,
                "upsampling": 4,
                "psp_dropout": 0.0,
                "decoder_use_norm": {"type": "instancenorm", "affine": True},
            },
        ),
    ],
    ids=str,
)
def test_the_logits_are_smp_s(encoder, arguments):
    ours = assert_same_logits(smp_model("PSPNet", encoder, **arguments))
    assert ours.config.decoder_channels == arguments.get("psp_out_channels", 512)
    assert ours.config.dropout == arguments.get("psp_dropout", 0.2)
    assert ours.features[-1].stride == 2 ** arguments.get("encoder_depth", 3)


def test_a_map_at_the_size_of_the_image_is_left_out_as_smp_does():
    ours = assert_same_logits(smp_model("PSPNet", "vgg11", psp_out_channels=16), [(64, 96)])
    assert ours.features[-1].stride == 8


def test_a_training_step_is_smp_s():
    assert_same_step(smp_model("PSPNet", psp_out_channels=16, psp_dropout=0.0), "pspnet")


def test_without_a_config_it_is_recognised():
    theirs = smp_model("PSPNet", psp_out_channels=16)
    ours = from_smp(theirs.state_dict(), {"psp_use_batchnorm": True}).eval()
    assert isinstance(ours, segzoo.PSPNet)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_depth": 4}, r"upsampling=8 the logits .* takes upsampling=16"),
        ({"encoder_depth": 0}, "encoder_depth must be between 1 and 5, got 0"),
        ({"psp_out_channels": 512}, "psp_out_channels=512, its tensors say 16"),
        ({"psp_dropout": -1}, "psp_dropout must be between 0 and 1"),
        ({"decoder_use_norm": "identity"}, "'none', its tensors say 'batch'"),
        ({"psp_use_batchnorm": "inplace"}, "'inplace' cannot be brought over exactly"),
        ({"psp_dropuot": 0.1}, "Did you mean psp_dropout"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(config, message):
    theirs = smp_model("PSPNet", "tu-test_resnet", psp_out_channels=16)
    assert_refused(theirs, config, message, needed="decoder.conv.0.weight")


@pytest.mark.parametrize(
    ("encoder", "arguments", "map_of"),
    [
        ("test_resnet", {}, (8, 48)),
        ("test_resnet", {"depth": 2}, (4, 32)),
        ("test_resnet", {"depth": 5}, (32, 96)),
        ("test_resnet", {"max_stride": 31}, (16, 192)),
        ("test_resnet", {"max_stride": 4, "depth": 5}, (4, 32)),
        (Maps(4, 8, 8), {}, (8, 6)),
        (Maps(16, 32), {}, (16, 4)),
        (Maps(7, 14), {}, (7, 4)),
        ("test_vit", {}, (16, 64)),
    ],
    ids=str,
)
def test_which_map_is_pooled(encoder, arguments, map_of):
    model = segzoo.PSPNet(encoder, **arguments, **NARROW)
    assert model.features == (segzoo.FeatureSpec(map_of[1], map_of[0]),)


def test_an_encoder_that_is_dilated_is_used_to_its_end():
    for arguments, coarsest in (
        ({"output_stride": 16}, None),
        ({"output_stride": 16, "max_stride": 8}, 8),
        ({}, 8),
    ):
        config = segzoo.PSPNet.config_class("test_resnet", **arguments)
        assert segzoo.PSPNet.wants(config).coarsest == coarsest


def same_when_loaded(model: segzoo.SegmentationModel, folder: Path) -> segzoo.SegmentationModel:
    randomise_all(model).eval()
    loaded = segzoo.from_pretrained(model.save_pretrained(folder))
    image = torch.rand(1, 3, 64, 97)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    assert loaded.config == model.config
    return loaded


@pytest.mark.parametrize(
    ("built", "stride", "arguments", "saved"),
    [
        ({}, 8, {}, {"depth": 5, "max_stride": 8}),
        ({}, 4, {"max_stride": 4}, {"depth": 5, "max_stride": 4}),
        ({}, 32, {"max_stride": 64}, {"depth": None, "max_stride": 64}),
        ({"depth": 3}, 8, {}, {"depth": 3, "max_stride": None}),
        ({"depth": 4}, 16, {}, {"depth": 4, "max_stride": None}),
        ({"output_stride": 8}, 8, {}, {"depth": None, "max_stride": None}),
        ({"output_stride": 16}, 8, {}, {"depth": 5, "max_stride": 8}),
        ({"encoder_options": {"out_indices": [1, 2, 4]}}, 8, {}, {"depth": None, "max_stride": 8}),
    ],
    ids=str,
)
def test_of_an_encoder_that_is_there_the_same_map_is_pooled_when_it_is_loaded(
    tmp_path, built, stride, arguments, saved
):
    """Built by its name the encoder would end at that map; it is shared, so all of it stays."""
    options = {"options" if key == "encoder_options" else key: item for key, item in built.items()}
    encoder = segzoo.create_encoder("test_resnet", **options)
    head = segzoo.Head("pspnet", 2, options={**arguments, **NARROW})
    several = segzoo.MultiHead("test_resnet", heads={"a": segzoo.Head("fcn"), "b": head}, **built)
    for model in (segzoo.PSPNet(encoder, 2, **arguments, **NARROW), several.single("b")):
        assert [item.stride for item in model.features] == [stride]
        loaded = same_when_loaded(model, tmp_path)
        assert loaded.encoder.strides == encoder.strides
        assert {key: getattr(loaded.config, key) for key in saved} == saved
        same_when_loaded(segzoo.FCN(model.encoder), tmp_path)


@pytest.mark.parametrize("encoder", ["mit_b0", "test_vit"])
def test_an_encoder_of_any_kind_that_is_there(tmp_path, encoder):
    model = segzoo.PSPNet(segzoo.create_encoder(encoder), **NARROW)
    assert model.features == segzoo.PSPNet(encoder, **NARROW).features
    same_when_loaded(model, tmp_path)


def test_its_own_encoder_serves_others(tmp_path):
    encoder = segzoo.PSPNet("test_resnet", **NARROW).encoder
    for kind in (segzoo.Unet, segzoo.PSPNet, segzoo.DeepLabV3):
        assert same_when_loaded(kind(encoder, 2), tmp_path).encoder.strides == (2, 4, 8)


def test_narrow_maps_and_every_norm():
    for norm in ("batch", "group", "instance", "layer", "none"):
        model = segzoo.PSPNet(Maps(1), norm=norm, **NARROW).train()
        assert model(torch.rand(1, 3, 5, 7)).shape == (1, 1, 5, 7)


def test_a_model_in_daily_use(tmp_path):
    assert_everyday(segzoo.PSPNet("test_resnet", classes=2, **NARROW), tmp_path)


def test_a_file_for_other_sizes(tmp_path):
    assert_exported(segzoo.PSPNet(Chain(2, 4), classes=2, **NARROW), tmp_path / "m.onnx")


def test_a_file_for_openvino_is_compared_at_another_size(tmp_path):
    # export itself compares it with the model, at an odd size too.
    model = randomise_all(segzoo.PSPNet(TinyBackbone(), **NARROW))
    assert segzoo.export(model, tmp_path / "m.xml", size=(64, 96)).exists()


def test_steps_have_names():
    model = segzoo.PSPNet("test_resnet", deep_supervision=("fuse",), **NARROW)
    assert_supervised(model)
    row = diagram(model).splitlines()[-1]
    assert row.endswith("48  ───►  pooling 96 → fuse 16 → head 1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder_channels": 0}, "decoder_channels must be between 1 and 8192, got 0"),
        ({"max_stride": 0}, "max_stride must be between 1 and 1024, got 0"),
        ({"max_stride": "8"}, "max_stride must be an integer"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.PSPNet("test_resnet", **arguments)
