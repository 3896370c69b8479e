"""DeepLabV3 and DeepLabV3+: smp's logits to the bit, daily use, and options."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.convert import from_smp
from segzoo.errors import ArgumentError, ConfigError, ConversionError, InputError

from ..architecture_checks import (
    Chain,
    assert_everyday,
    assert_exported,
    assert_recognised,
    assert_same_logits,
    assert_same_step,
    assert_supervised,
    assert_takes,
    smp_model,
)

BOTH = (segzoo.DeepLabV3, segzoo.DeepLabV3Plus)
SMALL = {"decoder_channels": 8}
#: Sizes at which wide rates meet more than the border.
WIDE = ((128, 128), (192, 256))


@pytest.mark.parametrize(
    ("kind", "encoder", "arguments", "dilation"),
    [
        ("DeepLabV3", "resnet18", {}, "convolutions"),
        ("DeepLabV3", "tu-test_convnext2", {"decoder_aspp_separable": True, **SMALL}, "timm"),
        (
            "DeepLabV3",
            "tu-test_resnet",
            {"encoder_depth": 4, "decoder_atrous_rates": (2, 5, 7), "upsampling": 8, **SMALL},
            "timm",
        ),
        ("DeepLabV3Plus", "resnet18", {}, "convolutions"),
        ("DeepLabV3Plus", "resnet18", {"encoder_depth": 3, **SMALL}, "none"),
        (
            "DeepLabV3Plus",
            "tu-test_resnet",
            {
                "encoder_output_stride": 8,
                "decoder_atrous_rates": (1, 2, 3),
                "decoder_aspp_separable": False,
                "decoder_aspp_dropout": 0.2,
                **SMALL,
            },
            "timm",
        ),
        ("DeepLabV3Plus", "tu-test_convnext2", SMALL, "timm"),
    ],
    ids=str,
)
def test_the_logits_are_smp_s(kind, encoder, arguments, dilation):
    ours = assert_same_logits(smp_model(kind, encoder, **arguments), WIDE)
    stride = arguments.get("encoder_output_stride", 16 if "Plus" in kind else 8)
    assert ours.config.output_stride == stride
    assert ours.config.dilation == dilation
    assert ours.config.atrous_rates == arguments.get("decoder_atrous_rates", (12, 24, 36))
    assert ours.config.aspp_dropout == arguments.get("decoder_aspp_dropout", 0.5)
    assert type(ours).__name__ == kind


@pytest.mark.parametrize("kind", ["DeepLabV3", "DeepLabV3Plus"])
def test_a_training_step_is_smp_s(kind):
    theirs = smp_model(kind, decoder_aspp_dropout=0.0, **SMALL)
    assert_same_step(theirs, kind.lower())


@pytest.mark.parametrize("kind", ["DeepLabV3", "DeepLabV3Plus"])
def test_without_a_config_it_is_recognised(kind):
    theirs = smp_model(kind, **SMALL)
    tensors = theirs.state_dict()
    variants = [tensors]
    if kind == "DeepLabV3":  # as older versions of smp called them
        old = {
            "decoder.aspp.": "decoder.0.",
            "decoder.conv.": "decoder.1.",
            "decoder.bn.": "decoder.2.",
        }
        variants.append(
            {
                next(
                    (new + name[len(a) :] for a, new in old.items() if name.startswith(a)), name
                ): item
                for name, item in tensors.items()
            }
        )
    for variant in variants:
        assert_recognised(theirs, kind.lower(), tensors=variant)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("DeepLabV3", {"encoder_output_stride": 32}, "one of 8, 16, got 32"),
        ("DeepLabV3Plus", {"encoder_output_stride": "16"}, "one of 8, 16, got '16'"),
        ("DeepLabV3", {"decoder_atrous_rates": (6, 12)}, r"3 dilated branches, but .*=\(6, 12\)"),
        ("DeepLabV3", {"decoder_atrous_rates": 6}, "decoder_atrous_rates must be a sequence"),
        ("DeepLabV3", {"decoder_atrous_rates": (6, 12, 10**9)}, "must be between 1 and 512"),
        ("DeepLabV3", {"decoder_aspp_separable": True}, "decoder_aspp_separable=True, its tensors"),
        ("DeepLabV3", {"upsampling": 4}, "upsampling=4 the logits .* takes upsampling=8"),
        ("DeepLabV3Plus", {"upsampling": 8}, "upsampling=8 the logits .* takes upsampling=4"),
        ("DeepLabV3Plus", {"encoder_depth": 2}, "encoder_depth must be between 3 and 5, got 2"),
        ("DeepLabV3Plus", {"decoder_channels": 16}, "its tensors say 8"),
        ("DeepLabV3Plus", {"decoder_aspp_dropout": 2}, "must be between 0 and 1"),
        ("DeepLabV3Plus", {"output_stride": 16}, "output_stride"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(kind, config, message):
    tensors = smp_model(kind, "tu-test_resnet", **SMALL).state_dict()
    given = {"encoder_name": "tu-test_resnet", "_model_class": kind, **config}
    with pytest.raises(ConversionError, match=message):
        from_smp(tensors, given)


@pytest.mark.parametrize("encoder", ["strides 16 to 64", "flat, patch 14", "stride 2"])
def test_one_map_of_encoders_of_every_kind(encoder):
    assert_takes(segzoo.DeepLabV3, encoder, **SMALL)


@pytest.mark.parametrize("architecture", BOTH)
@pytest.mark.parametrize(
    ("norm", "separable"),
    [("group", False), ("instance", True), ("layer", False), ("none", True)],
)
def test_every_norm_at_one_map(architecture, norm, separable):
    model = architecture("test_resnet", depth=1, norm=norm, separable=separable, **SMALL)
    assert len(model.features) == 1
    assert model(torch.rand(1, 3, 33, 50)).shape == (1, 1, 33, 50)
    pooled = model.decoder.aspp.pool(torch.rand(1, model.features[0].channels, 4, 4))
    assert norm != "instance" or pooled.std() > 0  # the plane of a single cell keeps its value


@pytest.mark.parametrize(
    ("stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))]
)
def test_the_branches_look_as_far_at_every_stride(stride, rates):
    model = segzoo.DeepLabV3("test_resnet", output_stride=stride, **SMALL)
    assert model.config.atrous_rates == rates
    assert [branch.conv.dilation[0] for branch in model.decoder.aspp.atrous] == list(rates)


def test_the_encoder_is_dilated_where_it_can_be():
    assert segzoo.DeepLabV3("test_resnet", **SMALL).encoder.strides == (2, 4, 8, 8, 8)
    plus = segzoo.DeepLabV3Plus("test_resnet", **SMALL)
    assert plus.encoder.strides == (2, 4, 8, 16, 16)
    assert [item.stride for item in plus.features] == [4, 16]
    vit = segzoo.DeepLabV3Plus("test_vit", **SMALL)
    assert [item.stride for item in vit.features] == [4, 16]
    assert [item.stride for item in segzoo.DeepLabV3("test_vit", **SMALL).features] == [16]


def test_a_model_in_daily_use(tmp_path):
    assert_everyday(segzoo.DeepLabV3("test_resnet", classes=2, **SMALL), tmp_path)


def test_a_model_with_changed_convolutions_in_daily_use(tmp_path):
    model = segzoo.DeepLabV3Plus("test_efficientnet", classes=2, dilation="convolutions", **SMALL)
    assert_everyday(model, tmp_path, whole=True)


def test_a_file_for_other_sizes(tmp_path):
    model = segzoo.DeepLabV3Plus(Chain(4, 4), classes=2, align_corners=False, **SMALL)
    assert_exported(model, tmp_path / "m.onnx")


def test_steps_have_names():
    model = segzoo.DeepLabV3Plus(
        "test_resnet", classes=2, deep_supervision=("aspp", "fuse"), **SMALL
    )
    assert_supervised(model)
    drawing = diagram(model)
    assert "aspp 8 → refine 8" in drawing
    assert "skip 48 → fuse 8 → head 2" in drawing


def test_the_corners_are_an_option_that_only_some_files_have(tmp_path):
    image = torch.rand(1, 3, 65, 97)
    for architecture in BOTH:
        aligned = architecture("test_resnet", **SMALL).eval()
        assert "align_corners" not in aligned.config.arguments()
        edges = architecture("test_resnet", align_corners=False, **SMALL).eval()
        edges.load_state_dict(aligned.state_dict())
        assert edges.config.arguments()["align_corners"] is False
        with torch.no_grad():
            assert not torch.equal(edges(image), aligned(image))
            loaded = segzoo.from_pretrained(edges.save_pretrained(tmp_path / edges.architecture))
            assert torch.equal(loaded(image), edges(image))


def test_a_batch_of_one_is_explained():
    model = segzoo.DeepLabV3("test_resnet", **SMALL).train()
    with pytest.raises(InputError, match=r"at decoder.aspp.pool.unit.norm.*at least two images"):
        model(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"atrous_rates": (0, 6)}, r"atrous_rates\[0\] must be between 1 and 512, got 0"),
        ({"atrous_rates": (6,) * 17}, "at most 16 items"),
        ({"atrous_rates": 6}, "must be a sequence"),
        ({"separable": 1}, "separable must be True or False"),
        ({"align_corners": None}, "align_corners must be True or False"),
        ({"aspp_dropout": 2}, "aspp_dropout must be between 0 and 1"),
        ({"decoder_channels": 10**6}, "decoder_channels must be between 1 and 8192"),
        ({"rates": (6,)}, "no argument 'rates'"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message, tmp_path):
    for architecture in BOTH:
        with pytest.raises(ArgumentError, match=message):
            architecture("test_resnet", **arguments)
    segzoo.DeepLabV3("test_resnet", **SMALL).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["arguments"].update(arguments)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError):
        segzoo.from_pretrained(tmp_path)


def test_no_branch_but_the_plain_ones():
    model = segzoo.DeepLabV3("test_resnet", atrous_rates=(), **SMALL)
    assert isinstance(model.decoder.aspp.project.conv, nn.Conv2d)
    assert model.decoder.aspp.project.conv.in_channels == 16
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 1, 64, 64)
