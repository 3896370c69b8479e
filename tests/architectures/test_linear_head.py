"""LinearHead on every encoder, against its formula written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.errors import ArgumentError

from ..architecture_checks import (
    Chain,
    Maps,
    assert_everyday,
    assert_exported,
    assert_supervised,
    assert_takes,
    randomise_all,
)


@pytest.mark.parametrize(
    "encoder",
    ["strides 2 to 32", "strides 8 to 32", "stride 2", "two maps at stride 8", "vit, patch 16"],
)
def test_encoders_of_every_kind(encoder):
    assert_takes(segzoo.LinearHead, encoder)


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_few_maps_and_every_norm(norm):
    model = segzoo.LinearHead("test_vit", depth=1, norm=norm)
    assert model.train()(torch.rand(1, 3, 33, 50)).shape == (1, 1, 33, 50)


def test_a_model_in_daily_use(tmp_path):
    assert_everyday(segzoo.LinearHead("test_resnet", classes=2), tmp_path)


def test_a_file_for_other_sizes(tmp_path):
    assert_exported(segzoo.LinearHead(Chain(4, 2, 2), classes=2), tmp_path / "m.onnx")


@pytest.mark.parametrize("training", [True, False])
def test_it_is_a_norm_and_a_matrix_on_joined_maps(training):
    """Each channel by its own mean and variance over batch and cells, then one matrix."""
    model = randomise_all(segzoo.LinearHead(Maps(2, 4, 8), classes=3)).double().train(training)
    maps = [torch.randn(2, 5, 13, 9).double(), torch.randn(2, 6, 7, 5).double()]
    norm, conv = model.decoder.norm, model.head.conv
    joined = torch.cat([maps[0], F.interpolate(maps[1], (13, 9), mode="bilinear")], 1)
    mean, variance = norm.running_mean, norm.running_var
    if training:
        variance, mean = torch.var_mean(joined, dim=(0, 2, 3), correction=0)
    scale = norm.weight / (variance + norm.eps).sqrt()
    cells = (joined.movedim(1, -1) - mean) * scale + norm.bias
    expected = (cells @ conv.weight[:, :, 0, 0].T + conv.bias).movedim(-1, 1)
    found = model.decode(maps, torch.rand(2, 3, 52, 36).double())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_maps_finer_than_a_quarter_are_left_out_unless_there_are_no_others():
    model = segzoo.LinearHead("test_resnet")
    assert [f.stride for f in model.features] == [4, 8, 16, 32]
    assert f"norm {sum(f.channels for f in model.features)} → head 1" in diagram(model)
    assert [f.stride for f in segzoo.LinearHead(Maps(2)).features] == [2]


def test_of_a_frozen_encoder_the_head_alone_is_trained():
    model = segzoo.LinearHead("test_vit", classes=3).freeze_encoder().train()
    trained = [name for name, item in model.named_parameters() if item.requires_grad]
    assert trained == ["decoder.norm.weight", "decoder.norm.bias", "head.conv.weight", "head.conv.bias"]  # fmt: skip
    assert model.decoder.norm.training
    assert not any(part.training for part in model.encoder.backbone.modules())


def test_steps_have_names():
    assert_supervised(segzoo.LinearHead("test_vit", deep_supervision=("norm",)))


def test_wrong_options():
    with pytest.raises(ArgumentError, match="has no argument 'decoder_channels'"):
        segzoo.LinearHead("test_vit", decoder_channels=8)
    with pytest.raises(ArgumentError, match="norm must be one of"):
        segzoo.LinearHead("test_vit", norm="batchnorm")
