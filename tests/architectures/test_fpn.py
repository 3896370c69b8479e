"""FPN: smp's logits to the bit, daily use, and options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.convert import from_smp
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

SMALL = {"pyramid_channels": 16, "decoder_channels": 8}
#: The same in smp's names, as far as it can.
NARROW = {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32}


@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        ("resnet18", {}),
        ("resnet18", {"encoder_depth": 4, "upsampling": 2, **NARROW}),
        ("tu-test_convnext2", NARROW),
        (
            "tu-test_resnet",
            {
                "decoder_merge_policy": "cat",
                "decoder_interpolation": "bilinear",
                "decoder_pyramid_channels": 48,
                "decoder_segmentation_channels": 96,
            },
        ),
        ("tu-test_resnet", {"decoder_segmentation_channels": 32, "decoder_dropout": 0.5}),
    ],
    ids=str,
)
def test_the_logits_are_smp_s(encoder, arguments):
    theirs = smp_model("FPN", encoder, **arguments)
    ours = from_smp(theirs).eval()
    # Of maps that lie cell by cell smp's sum lies channel by channel; ours lies as they do.
    maps = ours.encoder(torch.rand(1, 3, 64, 64))
    alike = all(item.is_contiguous() for item in maps)
    assert_same_logits(theirs, ours=ours, same_layout=alike)
    assert ours.config.dropout == arguments.get("decoder_dropout", 0.2)
    assert ours.config.merge == arguments.get("decoder_merge_policy", "add")


def test_a_training_step_is_smp_s():
    assert_same_step(smp_model("FPN", decoder_dropout=0.0, **NARROW), "fpn")


def test_without_a_config_it_is_recognised():
    assert_recognised(smp_model("FPN", decoder_merge_policy="cat", **NARROW), "fpn")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_depth": 4}, r"upsampling=4 the logits .*upsampling=2"),
        ({"upsampling": 1}, r"upsampling=1 the logits .* takes upsampling=4"),
        ({"encoder_depth": 3}, "encoder_depth must be between 4 and 5, got 3"),
        ({"encoder_depth": "5"}, "encoder_depth must be an integer"),
        ({"decoder_merge_policy": "cat"}, "decoder_merge_policy='cat', its tensors say add"),
        ({"decoder_segmentation_channels": 64}, "its tensors say 32"),
        ({"decoder_dropout": 2}, "decoder_dropout must be between 0 and 1"),
        ({"decoder_interpolation": "lanczos"}, "decoder_interpolation must be one of"),
        ({"decoder_use_norm": "batchnorm"}, "'decoder_use_norm', which is not known here"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(config, message):
    theirs = smp_model("FPN", "tu-test_resnet", **NARROW)
    assert_refused(theirs, config, message, needed="decoder.seg_blocks.0.block.0.block.0.weight")


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "none"])
def test_few_maps_and_every_norm(depth, norm):
    model = segzoo.FPN("test_resnet", depth=depth, norm=norm, merge="cat", **SMALL)
    assert len(model.features) == depth
    assert model(torch.rand(2, 3, 33, 50)).shape == (2, 1, 33, 50)


def test_group_norm_fits_every_width():
    def groups(width):
        decoder = segzoo.FPN("test_resnet", decoder_channels=width, pyramid_channels=8).decoder
        return {m.num_groups for m in decoder.modules() if isinstance(m, nn.GroupNorm)}

    assert groups(128) == groups(96) == groups(32) == {32}
    assert groups(48) == {8}
    assert groups(7) == {1}


def test_a_model_in_daily_use(tmp_path):
    assert_everyday(segzoo.FPN("test_resnet", classes=2, **SMALL), tmp_path)


def test_a_file_for_other_sizes(tmp_path):
    assert_exported(segzoo.FPN(Chain(2, 4, 2), 2, **SMALL), tmp_path / "m.onnx")


def test_steps_have_names(tmp_path):
    steps = ("laterals.0", "laterals.3", "branches.0", "branches.2")
    model = segzoo.FPN("test_resnet", classes=2, deep_supervision=steps, **SMALL)
    assert_supervised(model)
    drawing = diagram(model)
    assert "laterals.3 16 → branches.0 8 → branches.1 8 → branches.2 8 → branches.3 8" in drawing
    assert "laterals.0 16" in drawing.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"merge": "sum"}, "merge must be one of add, cat; got 'sum'"),
        ({"pyramid_channels": 0}, "pyramid_channels must be between 1 and 8192, got 0"),
        ({"decoder_channels": 10**6}, "decoder_channels must be between 1 and 8192"),
        ({"decoder_channels": (128, 64)}, "decoder_channels must be an integer"),
        ({"interpolation": "linear"}, "Did you mean bilinear"),
        ({"deep_supervision": ("branch.0",)}, "Did you mean branches.0"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.FPN("test_resnet", **arguments)
