"""PAN: smp's logits to the bit, daily use, and options."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.architectures.pan import _halved
from segzoo.errors import ArgumentError

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

SMALL = {"decoder_channels": 8}


@pytest.mark.parametrize(
    ("encoder", "arguments", "dilation"),
    [
        ("resnet18", {}, "convolutions"),
        ("resnet18", {"encoder_depth": 3, "decoder_channels": 16}, "none"),
        ("tu-test_resnet", {"encoder_depth": 4, "decoder_interpolation": "nearest"}, "none"),
        ("tu-test_resnet", {"encoder_output_stride": 32}, "none"),
        ("tu-test_convnext2", {"decoder_interpolation": "bicubic"}, "timm"),
    ],
    ids=str,
)
def test_the_logits_are_smp_s(encoder, arguments, dilation):
    # smp's attention needs 128 pixels, and at stride 32 twice as many.
    sizes = ((256, 320),) if "encoder_output_stride" in arguments else ((128, 192),)
    ours = assert_same_logits(smp_model("PAN", encoder, **arguments), sizes)
    assert ours.config.output_stride == arguments.get("encoder_output_stride", 16)
    assert ours.config.dilation == dilation
    assert ours.config.interpolation == arguments.get("decoder_interpolation", "bilinear")


def test_a_training_step_is_smp_s():
    theirs = smp_model("PAN", encoder_depth=3)
    assert_same_step(theirs, "pan")


def test_without_a_config_it_is_recognised():
    assert_recognised(smp_model("PAN", **SMALL), "pan", size=(128, 160))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_output_stride": 8}, "one of 16, 32, got 8"),
        ({"upsampling": 8}, "upsampling=8 the logits .* takes upsampling=4"),
        ({"encoder_depth": 4}, "encoder_depth=4, its tensors say 5"),
        ({"decoder_channels": 32}, "its tensors say 8"),
        ({"decoder_interpolation": "lanczos"}, "decoder_interpolation must be one of"),
        ({"decoder_use_norm": "batchnorm"}, "'decoder_use_norm', which is not known here"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(config, message):
    theirs = smp_model("PAN", "tu-test_resnet", **SMALL)
    assert_refused(theirs, config, message, needed="decoder.fpa.branch1.1.conv.weight")


def test_both_maps_of_the_output_stride_are_used():
    model = segzoo.PAN("test_resnet", **SMALL)
    assert [item.stride for item in model.features] == [4, 8, 16, 16]
    assert len(model.decoder.upsamples) == 3
    vit = segzoo.PAN("test_vit", **SMALL)
    assert [item.stride for item in vit.features] == [4, 8, 16, 16]
    coarse = segzoo.PAN("test_vit", output_stride=32, **SMALL)
    assert [item.stride for item in coarse.features] == [4, 8, 16, 32]


@pytest.mark.parametrize("norm", ["group", "instance", "layer", "none"])
@pytest.mark.parametrize("size", [(33, 50), (16, 16)])
def test_every_norm_at_small_sizes(norm, size):
    model = segzoo.PAN("test_resnet", norm=norm, classes=2, **SMALL)
    model.encoder.eval()  # its batch norms want more than one cell
    assert model(torch.rand(1, 3, *size)).shape == (1, 2, *size)


def test_halving_leaves_a_single_cell_alone():
    x = torch.randn(1, 2, 1, 5)
    assert torch.equal(_halved(x), torch.nn.functional.max_pool2d(x, (1, 2)))
    assert torch.equal(_halved(x[..., :1]), x[..., :1])
    whole = torch.randn(1, 2, 7, 6)
    assert torch.equal(_halved(whole), torch.nn.functional.max_pool2d(whole, 2))


def test_a_model_in_daily_use(tmp_path):
    assert_everyday(segzoo.PAN("test_resnet", classes=2, **SMALL), tmp_path)


def test_a_file_for_other_sizes(tmp_path):
    assert_exported(segzoo.PAN(Chain(4, 4), classes=2, **SMALL), tmp_path / "m.onnx")


def test_steps_have_names():
    steps = ("attention", "upsamples.0", "upsamples.2")
    model = segzoo.PAN("test_resnet", classes=2, deep_supervision=steps, **SMALL)
    assert_supervised(model)
    drawing = diagram(model)
    assert "attention 8 → upsamples.2 8" in drawing
    assert "upsamples.0 8 → head 2" in drawing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder_channels": 0}, "decoder_channels must be between 1 and 8192, got 0"),
        ({"decoder_channels": (32,)}, "decoder_channels must be an integer"),
        ({"interpolation": "linear"}, "Did you mean bilinear"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.PAN("test_resnet", **arguments)
