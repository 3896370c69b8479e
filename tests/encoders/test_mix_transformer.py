"""MiT as an encoder like any other; tests/convert compares it with smp's and transformers'."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.encoders.mix_transformer import SIZES, EfficientAttention, MixTransformer
from segzoo.errors import ArgumentError, EncoderError, UnknownKeywordError


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Of the encoders, in millions, table 6 of the paper.
    [("mit_b0", 3.3), ("mit_b1", 13.2), ("mit_b2", 24.2)],
)
def test_sizes_are_those_of_the_paper(name, parameters):
    info = segzoo.encoder_info(name)
    assert info.strides == (4, 8, 16, 32)
    assert info.parameters / 1e6 == pytest.approx(parameters, abs=0.1)
    assert info.normalization.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("size", [(97, 130), (29, 29), (20, 50)])
def test_any_size_and_number_of_bands(size):
    model = segzoo.Segformer("mit_b0", classes=2, in_channels=5, decoder_channels=16).train()
    model(torch.rand(2, 5, *size)).square().mean().backward()
    assert all(item.grad is not None for item in model.parameters())


def test_attention_sees_the_whole_map():
    layer = EfficientAttention(8, 2, 4).double()
    cells = torch.randn(1, 64, 8, dtype=torch.float64, requires_grad=True)
    layer(cells, (8, 8))[0, 0].sum().backward()
    assert cells.grad is not None
    assert (cells.grad[0].abs().sum(1) > 0).all()


def test_paths_are_dropped_more_often_with_depth():
    model = MixTransformer(SIZES["mit_b0"], 3, drop_path_rate=0.7)
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0)
        for stage in model.stages
        for block in stage.blocks
    ]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


def test_depth_and_freezing(tmp_path):
    model = segzoo.Unet("mit_b0", classes=2, depth=2, encoder_options={"drop_path_rate": 0.0})
    assert len(model.encoder.backbone.stages) == 2
    model.freeze_encoder(1)
    assert not model.encoder.backbone.stages[0].embed.conv.weight.requires_grad
    assert model.encoder.backbone.stages[1].embed.conv.weight.requires_grad
    loaded = segzoo.from_pretrained(model.eval().save_pretrained(tmp_path))
    image = torch.rand(1, 3, 97, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))


def test_what_cannot_be_is_refused():
    with pytest.raises(EncoderError, match="no pretrained weights for 'mit_b0' alone"):
        segzoo.Unet("mit_b0", pretrained=True)
    with pytest.raises(ArgumentError, match="depth must be between 1 and 4 for 'mit_b0'"):
        segzoo.Unet("mit_b0", depth=5)
    with pytest.raises((TypeError, UnknownKeywordError)):
        segzoo.Unet("mit_b0", encoder_options={"drop_path": 0.1})
