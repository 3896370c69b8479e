"""From segmentation_models_pytorch: the same weights and logits, or a refusal with the reason.

benchmarks/parity/smp_encoders.py does the same for every encoder, and keeps the record.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import segzoo
from segzoo.convert import from_smp
from segzoo.convert.keymap import built, rename
from segzoo.errors import ConversionError
from segzoo.files.checkpoint import Checkpoint
from segzoo.files.stored import in_memory

from ..helpers import assert_same_tensors, randomise
from .smp_models import SMALL, assert_same, theirs

smp = pytest.importorskip("segmentation_models_pytorch")

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "smp_conversion.json"
#: smp's own encoders that are segzoo's own too.
OWN = ("efficientnet", "timm-efficientnet", "timm-tf", "mobilenet", "densenet", "mit")


@pytest.mark.parametrize(
    "encoder",
    [
        "resnet18",
        "resnext50_32x4d",
        "se_resnet50",
        "vgg11_bn",
        "timm-regnetx_002",
        "timm-resnest14d",
        "tu-resnet18.a1_in1k",
        "tu-mobilenetv3_small_050",
        "tu-efficientnet_b0",
        "tu-densenet121",
        "tu-vgg11",
        "efficientnet-b0",
        "efficientnet-b1",  # padded for images of 240 pixels
        "timm-efficientnet-b0",
        "timm-tf_efficientnet_lite0",
        "mobilenet_v2",
        "densenet121",
        "mit_b0",
    ],
)
def test_encoders(encoder):
    source = theirs(encoder)
    own = encoder.startswith(OWN)
    # smp rounds the missing stride 2 of mit down, and takes sides that 32 divides.
    sizes = ((64, 64), (96, 160)) if own else ((64, 64), (65, 97))
    assert_same(source, from_smp(source), *sizes)
    if own:
        # It is recognised by its tensors.
        assert_same_tensors(from_smp(source), from_smp(source.state_dict()))


@pytest.mark.parametrize("encoder", ["mit_b0", "mobilenet_v2", "efficientnet-b1"])
def test_depths_and_bands_of_encoders_that_are_not_timm_s(encoder):
    source = theirs(encoder, encoder_depth=3, decoder_channels=(16, 8, 8), in_channels=4)
    converted = from_smp(source)
    assert_same(source, converted, (64, 64), (96, 160), bands=4)
    assert converted.config.depth == {"mit_b0": 2}.get(encoder, 3)


@pytest.mark.parametrize(
    ("kind", "encoder", "arguments"),
    [
        ("DeepLabV3", "efficientnet-b1", {}),
        ("DeepLabV3", "mobilenet_v2", {}),
        ("DeepLabV3Plus", "mit_b0", {}),
        ("PAN", "timm-efficientnet-b0", {}),
        ("Segformer", "mit_b0", {"decoder_segmentation_channels": 16}),
        ("MAnet", "mit_b0", {"decoder_channels": SMALL}),
    ],
)
def test_other_architectures_on_encoders_that_are_not_timm_s(kind, encoder, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the prefix timm-
        source = getattr(smp, kind)(encoder, encoder_weights=None, classes=2, **arguments)
    randomise(source)
    assert_same(source, from_smp(source), (128, 128), (192, 256))


def test_dilation_that_is_not_the_same_is_refused():
    source = smp.DeepLabV3("mit_b0", encoder_weights=None)
    with pytest.raises(ConversionError, match=r"output stride of 8 cannot .* 16 can be"):
        from_smp(source)


@pytest.mark.parametrize("attention", [None, "scse"])
@pytest.mark.parametrize(
    "encoder",
    [
        "tu-pvt_v2_b0",  # begins at stride 4: smp has an empty map at stride 2
        "tu-test_convnext2",  # so does this, and its maps lie channels last in memory
        "tu-test_mambaout",  # maps (N, H, W, C)
    ],
)
def test_maps_lie_in_memory_as_smp_s_do(encoder, attention):
    """Of a map that lies otherwise a convolution adds up the same values in another order."""
    # With narrow decoders both orders are the same.
    widths = (256, 128, 64, 32, 16)
    source = theirs(encoder, decoder_channels=widths, decoder_attention_type=attention)
    # smp rounds the missing stride 2 down, so the sizes are even.
    assert_same(source, from_smp(source), (128, 128), (192, 256))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_convnext2", "tu-test_mambaout"])
def test_logits_in_training_mode(encoder):
    source = theirs(encoder, decoder_channels=(256, 128, 64, 32, 16)).train()
    converted = from_smp(source)
    image = torch.randn(2, 3, 128, 96)
    expected = source(image)
    for impl in ("plain", "auto"):
        logits = copy.deepcopy(converted).configure_training(decoder_impl=impl).train()(image)
        if impl == "plain":
            assert torch.equal(logits, expected)
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "arguments",
    [
        {"encoder_depth": 3, "decoder_channels": (16, 8, 8)},
        {"encoder_depth": 4, "decoder_channels": (16, 8, 8, 8)},
        {"in_channels": 1},
        {"in_channels": 7},
        {"classes": 1},
        {"decoder_use_norm": False},
        {"decoder_use_norm": "identity"},
        {"decoder_use_norm": {"type": "instancenorm", "affine": True}},
        {"decoder_use_norm": {"type": "batchnorm", "eps": 1e-5}},
        {"decoder_attention_type": "scse", "decoder_channels": (32, 32, 16, 16, 16)},
        {"decoder_interpolation": "bilinear"},
        {"decoder_interpolation": "bicubic"},
        {"decoder_interpolation": "area"},
        {"decoder_interpolation": "nearest-exact"},
        {"activation": "identity"},
        {"drop_path_rate": 0.1},
    ],
    ids=str,
)
def test_options(arguments):
    source = theirs(**arguments)
    converted = from_smp(source)
    assert_same(source, converted, bands=arguments.get("in_channels", 3))
    if "drop_path_rate" not in arguments:
        told = {key: value for key, value in source.config.items() if "interpol" in key}
        assert_same(
            source,
            from_smp(source.state_dict(), {"encoder_name": "tu-test_resnet", **told}),
            (64, 64),
            bands=arguments.get("in_channels", 3),
        )


@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        ("resnet18", {"encoder_depth": 3, "decoder_channels": (16, 8, 8), "in_channels": 4}),
        ("vgg11", {"encoder_depth": 4, "decoder_channels": (16, 8, 8, 8)}),
        ("resnet34", {"decoder_attention_type": "scse", "decoder_channels": (32, 32, 16, 16, 16)}),
    ],
)
def test_without_a_config_everything_is_deduced(encoder, arguments, caplog):
    source = theirs(encoder, **arguments)
    with caplog.at_level(logging.INFO):
        converted = from_smp(source.state_dict())
    assert converted.config.encoder.startswith(f"{encoder}.")
    assert any("that smp never uses were left out" in text for text in caplog.messages)
    assert_same(source, converted, bands=arguments.get("in_channels", 3))


def test_training_goes_on_alike():
    source = theirs("resnet18").double().train()
    converted = from_smp(source).train()
    assert converted.head.conv.weight.dtype == torch.float64
    image = torch.randn(2, 3, 65, 97, dtype=torch.float64)
    outputs = []
    for model in (source, converted):
        loss = model(image).square().mean()
        loss.backward()
        outputs.append(loss.item())
    assert outputs[0] == outputs[1]
    torch.testing.assert_close(
        converted.encoder.backbone.conv1.weight.grad,
        source.encoder.conv1.weight.grad,
        rtol=1e-11,
        atol=1e-13,
    )
    assert_same(source, converted)


def test_the_source_is_left_alone():
    source = theirs()
    before = {name: value.clone() for name, value in source.state_dict().items()}
    converted = from_smp(source)
    nn.init.zeros_(converted.head.conv.weight)
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


# Where checkpoints come from


def test_a_classification_head_comes_along_to_the_bit():
    aux = {"classes": 4, "pooling": "max", "dropout": 0.3}
    source = theirs(aux_params=aux)
    converted = from_smp(source).eval()
    assert converted.config.classification == segzoo.Classification(
        classes=4, pooling="max", dropout=0.3
    )
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        masks, labels = source.eval()(image)
        outputs = converted.forward_heads(image)
    assert torch.equal(outputs.logits, masks)
    assert torch.equal(outputs.image_logits, labels)


def test_a_classification_head_that_is_not_wanted_is_refused():
    source = theirs(aux_params={"classes": 4})
    with pytest.raises(ConversionError, match=r"aux_params=None.*4 classes.*Leave aux_params out"):
        from_smp(source.state_dict(), {"encoder_name": "tu-test_resnet", "aux_params": None})


def test_an_activation_is_named(caplog):
    source = theirs(activation="sigmoid")
    converted = from_smp(source)
    assert "without the activation 'sigmoid'" in caplog.text
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(converted.eval()(image).sigmoid(), source(image))


def test_renaming_and_filling():
    tensors = {"a.1": torch.zeros(1), "b.1": torch.ones(1)}
    assert rename(tensors, [(r"^a\.", "c.")]).keys() == {"c.1", "b.1"}
    with pytest.raises(ConversionError, match=r"would both become 'b\.1'"):
        rename(tensors, [(r"^a\.", "b.")])
    half = Checkpoint(
        {name: in_memory(torch.ones(1, 1).half(), name) for name in ("weight", "bias")}
    )
    layer = built(
        lambda: nn.Linear(1, 1),
        lambda _, given: {"weight": given["weight"], "bias": given["bias"][0]},
        half,
    )
    assert layer.weight.dtype == torch.float16
    assert layer.bias == 1


def test_the_record_holds_more_than_forty_encoders():
    record = json.loads(RECORD.read_text())
    rows = record["encoders"].values()
    assert sum(row.get("bit_identical", False) for row in rows) >= 40
    for name, row in record["encoders"].items():
        assert "failed" not in row, name
        assert row.get("bit_identical", True), name


@torch.no_grad()
@pytest.mark.parametrize("name", ["convnext_atto", "pvt_v2_b0"])
@pytest.mark.parametrize("size", [(65, 97), (63, 95), (250, 131)])
def test_encoders_that_begin_at_stride_4_agree_at_odd_sizes(name, size):
    theirs = smp.Unet(f"tu-{name}", encoder_weights=None, classes=2).double().eval()
    ours = from_smp(theirs, {"encoder_name": f"tu-{name}"}).eval()
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-12, atol=1e-12)
