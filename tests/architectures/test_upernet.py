"""UPerNet: smp's logits to the bit, daily use, and options."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.errors import ArgumentError, InputError

from ..architecture_checks import (
    Chain,
    assert_everyday,
    assert_exported,
    assert_recognised,
    assert_refused,
    assert_same_logits,
    assert_same_step,
    assert_supervised,
    smp_model,
)

NARROW = {"decoder_channels": 16}


@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        ("resnet18", {"decoder_channels": 64}),
        ("resnet18", {"encoder_depth": 3, **NARROW}),
        ("tu-test_convnext2", NARROW),
        ("tu-test_resnet", {"encoder_depth": 4, "decoder_channels": 40}),
        ("tu-test_resnet", {}),
    ],
    ids=str,
)
def test_the_logits_are_smp_s(encoder, arguments):
    ours = assert_same_logits(smp_model("UPerNet", encoder, **arguments))
    assert ours.config.decoder_channels == arguments.get("decoder_channels", 256)


def test_a_training_step_is_smp_s():
    assert_same_step(smp_model("UPerNet", **NARROW), "upernet")


def test_without_a_config_it_is_recognised():
    assert_recognised(smp_model("UPerNet", **NARROW), "upernet")


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        ({}, {"upsampling": 8}, r"upsampling=8 the logits .* takes upsampling=4"),
        ({}, {"encoder_depth": 2}, "encoder_depth must be between 3 and 5, got 2"),
        ({}, {"decoder_channels": 32}, "decoder_channels=32, its tensors say 16"),
        ({}, {"decoder_use_norm": False}, "'none', its tensors say 'batch'"),
        ({"decoder_use_norm": False}, {}, "the norm 'none' .* always has batch normalisation"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(arguments, config, message):
    theirs = smp_model("UPerNet", "tu-test_resnet", **NARROW, **arguments)
    assert_refused(theirs, config, message, needed="decoder.fusion_block.0.weight")


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("norm", ["group", "instance", "layer", "none"])
def test_few_maps_and_every_norm(depth, norm):
    model = segzoo.UPerNet("test_resnet", depth=depth, norm=norm, **NARROW)
    assert [feature.stride for feature in model.features] == [[2], [4], [4, 8]][depth - 1]
    assert model.train()(torch.rand(1, 3, 33, 50)).shape == (1, 1, 33, 50)


def test_a_single_image_is_explained():
    model = segzoo.UPerNet("test_resnet", **NARROW).train()
    where = r"at decoder\.pooling\.branches\.0\.norm.*at least two images"
    with pytest.raises(InputError, match=where):
        model(torch.rand(1, 3, 64, 64))


def test_a_model_in_daily_use(tmp_path):
    assert_everyday(segzoo.UPerNet("test_resnet", classes=2, **NARROW), tmp_path)


def test_a_file_for_other_sizes(tmp_path):
    assert_exported(segzoo.UPerNet(Chain(4, 4), 2, **NARROW), tmp_path / "m.onnx")


def test_steps_have_names():
    steps = ("top", "laterals.0", "refine.2", "fuse")
    model = segzoo.UPerNet("test_resnet", classes=2, deep_supervision=steps, **NARROW)
    assert_supervised(model)
    lines = diagram(model).splitlines()
    assert lines[-1].endswith("norms.3 96 → pooling 160 → top 16")
    assert lines[-3].endswith("norms.1 48 → laterals.1 16 → refine.1 16")
    assert lines[-4].endswith("norms.0 32 → laterals.2 16 → refine.2 16 → fuse 16 → head 2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder_channels": 0}, "decoder_channels must be between 1 and 8192, got 0"),
        ({"decoder_channels": "256"}, "decoder_channels must be an integer"),
        ({"norm": "batchnorm"}, "Did you mean batch"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.UPerNet("test_resnet", **arguments)
