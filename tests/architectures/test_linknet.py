"""LinkNet: smp's logits to the bit, daily use, and options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.architectures.linknet import Fit
from segzoo.errors import ArgumentError

from ..architecture_checks import (
    EVEN,
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


@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        ("resnet18", {}),
        # The first map at stride 4: nothing is added at stride 2.
        ("tu-pvt_v2_b0", {}),
        ("tu-test_convnext2", {"encoder_depth": 4}),
        ("tu-test_resnet", {"encoder_depth": 3, "decoder_use_norm": False}),
        ("tu-test_resnet", {"decoder_use_norm": {"type": "instancenorm", "affine": True}}),
        ("tu-test_resnet", {"encoder_depth": 1, "in_channels": 3}),
    ],
    ids=str,
)
def test_the_logits_are_smp_s(encoder, arguments):
    assert_same_logits(smp_model("Linknet", encoder, **arguments), EVEN)


def test_a_training_step_is_smp_s():
    assert_same_step(smp_model("Linknet", "tu-test_resnet"), "linknet")


def test_without_a_config_it_is_recognised():
    assert_recognised(smp_model("Linknet", encoder_depth=3), "linknet")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_depth": 4}, "encoder_depth=4, its tensors say 5"),
        ({"decoder_use_norm": False}, "tensors say 'batch'"),
        ({"decoder_channels": (256, 128)}, "'decoder_channels', which is not known here"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(config, message):
    theirs = smp_model("Linknet", "tu-test_resnet")
    assert_refused(theirs, config, message, needed="decoder.blocks.1.block.1.0.weight")


def test_a_map_that_fits_is_not_copied():
    x, fit = torch.rand(1, 2, 4, 6), Fit()
    assert fit(x, (4, 6)) is x
    # Twice a map and one less, where the side was odd on the way down: the last row is left out.
    assert torch.equal(fit(x, (3, 5)), x[..., :3, :5])


@torch.no_grad()
def test_a_graph_copies_no_map_that_fits(monkeypatch):
    model = segzoo.Linknet("test_resnet").eval()
    fast = segzoo.optimize(model, backend="eager", example=torch.rand(1, 3, 64, 64))
    assert not any(isinstance(item, nn.BatchNorm2d) for item in fast.modules())
    called = []
    interpolate = nn.functional.interpolate
    monkeypatch.setattr(
        nn.functional,
        "interpolate",
        lambda *args, **kwargs: called.append(args) or interpolate(*args, **kwargs),
    )
    for size, copies in (((64, 96), False), ((65, 97), True)):
        image = torch.rand(1, 3, *size)
        torch.testing.assert_close(fast(image), model(image), rtol=1e-4, atol=1e-5)
        assert bool(called) == copies


# As every architecture


def test_widths_are_those_of_the_encoder_s_maps():
    def widths(encoder):
        blocks = segzoo.Linknet(encoder).decoder.blocks
        return [block.widen.conv.out_channels for block in blocks]

    assert widths(Maps(2, 4, 8)) == [5, 4, 32]
    assert widths(Maps(4, 8)) == [4, 4, 32]  # nothing to add at stride 2
    assert widths(Maps(1, 2, 4)) == [5, 4]  # the map of the image's size is added, too


def test_a_model_in_daily_use(tmp_path):
    assert_everyday(segzoo.Linknet("test_resnet", classes=2), tmp_path)


def test_a_file_for_other_sizes(tmp_path):
    assert_exported(segzoo.Linknet(Chain(2, 2, 2), classes=2), tmp_path / "m.onnx")


def test_steps_have_names():
    model = segzoo.Linknet("test_resnet", classes=2, deep_supervision=("blocks.0", "blocks.4"))
    assert_supervised(model)
    assert "blocks.4 32 → head 2" in diagram(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "bach"}, "Did you mean batch"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1"),
        ({"decoder_channels": (64, 32)}, "Linknet has no argument 'decoder_channels'"),
        ({"deep_supervision": ("block.1",)}, r"Did you mean blocks\.1"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.Linknet("test_resnet", **arguments)
    with pytest.raises(ArgumentError, match="Linknet has no option decoder_impl"):
        segzoo.Linknet("test_resnet").configure_training(decoder_impl="plain")
