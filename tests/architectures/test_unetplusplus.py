"""UNet++: smp's logits to the bit, daily use, and options."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.architectures.unetplusplus import UnetPlusPlusConfig, UnetPlusPlusDecoder
from segzoo.errors import ArgumentError

from ..architecture_checks import (
    EVEN,
    Chain,
    Maps,
    assert_everyday,
    assert_exported,
    assert_recognised,
    assert_refused,
    assert_same_gradients,
    assert_same_logits,
    assert_same_step,
    assert_supervised,
    smp_model,
)

SMALL = (16, 16, 8, 8, 8)


@pytest.mark.parametrize(
    ("encoder", "arguments", "sizes"),
    [
        ("resnet18", {}, EVEN[:1]),
        # smp gives this one convolutions below the encoder, and does not use them.
        ("vgg11", {"encoder_depth": 3, "decoder_channels": (32, 16, 8)}, ((64, 64),)),
        # The first map at stride 4: no level at stride 2, in smp's model either.
        ("tu-pvt_v2_b0", {"decoder_channels": (32, 16, 16, 16, 8)}, EVEN),
        # Its maps lie channels last: so do smp's, but for what smp joins to an empty map.
        ("tu-test_convnext2", {"decoder_channels": (32, 16, 16, 16, 8)}, EVEN),
        (
            "tu-test_resnet",
            {
                "encoder_depth": 4,
                "decoder_channels": (32, 32, 16, 16),
                "decoder_attention_type": "scse",
                "decoder_interpolation": "bilinear",
            },
            EVEN,
        ),
        ("tu-test_resnet", {"decoder_use_norm": False, "decoder_channels": SMALL}, EVEN),
        (
            "tu-test_resnet",
            {"encoder_depth": 2, "decoder_channels": (16, 8), "decoder_use_norm": "identity"},
            EVEN[:1],
        ),
    ],
    ids=str,
)
def test_the_logits_are_smp_s(encoder, arguments, sizes):
    assert_same_logits(smp_model("UnetPlusPlus", encoder, **arguments), sizes)


def test_a_training_step_is_smp_s():
    theirs = smp_model("UnetPlusPlus", "tu-test_resnet", decoder_channels=SMALL)
    assert_same_step(theirs, "unetplusplus")


def test_without_a_config_it_is_recognised():
    theirs = smp_model("UnetPlusPlus", encoder_depth=3, decoder_channels=(32, 16, 8))
    assert_recognised(theirs, "unetplusplus")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_depth": 4}, "encoder_depth=4, its tensors say 5"),
        ({"decoder_channels": SMALL[:4]}, "config says decoder_channels"),
        ({"decoder_attention_type": "scse"}, "'scse', its tensors say none"),
        ({"decoder_use_norm": False}, "tensors say 'batch'"),
        ({"decoder_interpolation": "lanczos"}, "decoder_interpolation must be one of"),
        ({"decoder_pab_channels": 64}, "'decoder_pab_channels', which is not known here"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(config, message):
    theirs = smp_model("UnetPlusPlus", "tu-test_resnet", decoder_channels=SMALL)
    assert_refused(theirs, config, message, needed="decoder.blocks.x_0_1.conv1.0.weight")


# The paper's picture


def test_nodes_are_those_of_the_paper_s_figure():
    features = [segzoo.FeatureSpec(2 + i, 1 << i) for i in range(5)]
    decoder = UnetPlusPlusDecoder(features, UnetPlusPlusConfig(decoder_channels=(9, 9, 9, 9)))
    assert set(decoder.blocks) == {f"x_{i}_{j}" for i in range(4) for j in range(1, 5 - i)}
    entered: dict[str, tuple[str, ...]] = {}
    names: dict[int, str] = {}

    def watch(name, block):
        def record(_, inputs, output):
            x, skip, _, between = inputs
            entered[name] = tuple(names[id(item)] for item in (x, *between, skip))
            names[id(output)] = name

        block.register_forward_hook(record)

    for name, block in decoder.blocks.items():
        watch(name, block)
    maps = [torch.rand(1, feature.channels, 32 >> i, 48 >> i) for i, feature in enumerate(features)]
    names.update({id(item): f"x_{i}_0" for i, item in enumerate(maps)})
    kept = decoder(maps, (32, 48))
    assert kept.shape == (1, 9, 32, 48)
    for i in range(4):
        for j in range(1, 5 - i):
            beside = [f"x_{i}_{k}" for k in reversed(range(j))]
            assert entered[f"x_{i}_{j}"] == (f"x_{i + 1}_{j - 1}", *beside)


def test_the_paper_s_deep_supervision():
    steps = tuple(f"blocks.x_0_{j}" for j in range(1, 5))
    model = segzoo.UnetPlusPlus(
        "test_resnet", classes=2, decoder_channels=SMALL, deep_supervision=steps
    )
    assert_supervised(model)
    row = " → ".join(f"blocks.x_0_{j} {model.features[0].channels}" for j in (2, 3))
    assert f"{row} → blocks.x_0_4 8" in diagram(model)
    with pytest.raises(ArgumentError, match=r"'blocks.x_0_5'. Did you mean blocks.x_0_\d"):
        segzoo.UnetPlusPlus("test_resnet", deep_supervision=("blocks.x_0_5",))


def test_a_map_of_the_image_s_size_is_a_level_or_left_out():
    whole, without = (
        segzoo.UnetPlusPlus(Maps(1, 2, 4), full_resolution=full) for full in (True, False)
    )
    assert list(whole.decoder.blocks) == ["x_1_1", "x_0_1", "x_0_2"]
    assert list(without.decoder.blocks) == ["x_0_1", "up_1"]
    for model in (whole, without):
        assert model(torch.rand(2, 3, 33, 50)).shape == (2, 1, 33, 50)
    assert not segzoo.UnetPlusPlus(Maps(1), full_resolution=False).decoder.blocks


def test_where_the_encoder_has_no_map_only_the_last_node_steps_on():
    decoder = segzoo.UnetPlusPlus(Maps(2, 8, 16)).decoder
    assert list(decoder.blocks) == ["x_1_1", "up_4", "x_0_1", "x_0_2", "up_1"]


# As every architecture


def test_a_model_in_daily_use(tmp_path):
    model = segzoo.UnetPlusPlus("test_resnet", classes=2, depth=3, decoder_channels=SMALL[2:])
    assert_everyday(model, tmp_path)


def test_a_file_for_other_sizes(tmp_path):
    model = segzoo.UnetPlusPlus(Chain(2, 2, 2), classes=2, decoder_channels=SMALL[2:])
    assert_exported(model, tmp_path / "m.onnx")


@pytest.mark.parametrize("computing", [{"decoder_impl": "rewritten"}, {"checkpoint": 7}], ids=str)
def test_how_it_computes_changes_no_gradient(computing):
    model = segzoo.UnetPlusPlus("test_resnet", decoder_channels=SMALL, decoder_impl="plain")
    assert_same_gradients(model, **computing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"full_resolution": 1}, "full_resolution must be True or False, got 1"),
        ({"decoder_impl": "fast"}, "decoder_impl must be one of auto, plain, rewritten"),
        ({"decoder_channels": (64, 32)}, r"must have 5 values.*\(16, 8, 4, 2, 1\).*got 2"),
        ({"decoder_channels": (10**6,) * 5}, "must be between 1 and 8192"),
        ({"checkpoint": 12}, "between 0 and 11, the number of the decoder's blocks; got 12"),
        ({"attention": "cbam"}, "attention must be one of none, scse"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.UnetPlusPlus("test_resnet", **arguments)
