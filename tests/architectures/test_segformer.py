"""Segformer: smp's logits to the bit, daily use, and options."""

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
        ("resnet18", {}),
        ("resnet18", {"encoder_depth": 3, "decoder_segmentation_channels": 40}),
        ("tu-test_convnext2", {}),
        ("tu-test_resnet", {"encoder_depth": 4, "decoder_segmentation_channels": 16}),
    ],
    ids=str,
)
def test_the_logits_are_smp_s(encoder, arguments):
    ours = assert_same_logits(smp_model("Segformer", encoder, **arguments))
    assert ours.config.decoder_channels == arguments.get("decoder_segmentation_channels", 256)


def test_a_training_step_is_smp_s():
    assert_same_step(smp_model("Segformer", decoder_segmentation_channels=16), "segformer")


def test_without_a_config_it_is_recognised():
    assert_recognised(smp_model("Segformer", decoder_segmentation_channels=16), "segformer")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"upsampling": 1}, r"upsampling=1 the logits .* takes upsampling=4"),
        ({"encoder_depth": 2}, "encoder_depth must be between 3 and 5, got 2"),
        ({"decoder_segmentation_channels": 32}, "its tensors say 16"),
        ({"decoder_channels": 16}, "'decoder_channels', which is not known here"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(config, message):
    theirs = smp_model("Segformer", "tu-test_resnet", decoder_segmentation_channels=16)
    assert_refused(theirs, config, message, needed="decoder.mlp_stage.0.linear.weight")


@pytest.mark.parametrize(
    ("strides", "size"),
    [
        ((2, 4, 8), (25, 16)),
        ((2, 8), (25, 16)),
        ((1,), (25, 16)),
        ((8, 16), (13, 8)),
        ((7, 14), (14, 10)),
    ],
    ids=str,
)
def test_the_decoder_works_at_a_quarter_of_the_image(strides, size):
    model = segzoo.Segformer(Maps(*strides), **NARROW).eval()
    sizes = []
    model.head.register_forward_hook(lambda _, __, logits: sizes.append(tuple(logits.shape[-2:])))
    model(torch.rand(1, 3, 97, 64))
    assert sizes == [size]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("norm", ["group", "instance", "layer", "none"])
def test_few_maps_and_every_norm(depth, norm):
    model = segzoo.Segformer("test_resnet", depth=depth, norm=norm, **NARROW)
    assert model.train()(torch.rand(1, 3, 33, 50)).shape == (1, 1, 33, 50)


def test_a_model_in_daily_use(tmp_path):
    assert_everyday(segzoo.Segformer("test_resnet", classes=2, **NARROW), tmp_path)


def test_a_file_for_other_sizes(tmp_path):
    assert_exported(segzoo.Segformer(Chain(2, 4, 2), 2, **NARROW), tmp_path / "m.onnx")


def test_steps_have_names():
    steps = ("projections.0", "projections.4", "fuse")
    model = segzoo.Segformer("test_resnet", classes=2, deep_supervision=steps, **NARROW)
    assert_supervised(model)
    lines = diagram(model).splitlines()
    assert lines[-1].endswith("projections.0 16")
    assert lines[-4].endswith("projections.3 16 → fuse 16 → head 2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder_channels": 8193}, "decoder_channels must be between 1 and 8192, got 8193"),
        ({"decoder_channels": True}, "decoder_channels must be an integer"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.Segformer("test_resnet", **arguments)
