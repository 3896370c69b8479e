"""Swin's blocks that pad first: timm's where windows divide the map, and any encoder's manners."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.encoders.swin_blocks import PaddedFirst
from segzoo.errors import ArgumentError

SWIN = "swin_tiny_patch4_window7_224"


@pytest.fixture(scope="module")
def pair():
    options = {"always_partition": True}
    torch.manual_seed(0)
    plain = segzoo.create_encoder(SWIN, depth=2, options=options).eval()
    padded = segzoo.create_encoder(SWIN, depth=2, options={**options, "pad_first": True}).eval()
    padded.load_state_dict(plain.state_dict())  # the layers have timm's names
    return plain.double(), padded.double()


@torch.no_grad()
def test_where_windows_divide_the_map_it_is_timm_s(pair):
    plain, padded = pair
    image = torch.randn(2, 3, 112, 224, dtype=torch.float64)  # maps of 28x56 and 14x28
    for found, expected in zip(padded(image), plain(image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_elsewhere_it_is_not(pair):
    image = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    plain, padded = (encoder(image)[0] for encoder in pair)
    assert plain.shape == padded.shape
    assert not torch.allclose(plain, padded, atol=1e-3)


@torch.no_grad()
def test_only_real_neighbours_are_attended_to(pair):
    block = next(
        item for item in pair[1].modules() if isinstance(item, PaddedFirst) and item.shift[0]
    )
    x = torch.randn(1, 14, 14, 96, dtype=torch.float64)
    changed = x.clone()
    changed[:, 13] += 1  # the last row, which the shift puts next to the first ones
    same = (block(x) == block(changed)).all(-1)[0]
    assert same[:10].all()
    assert not same[10:].all()


def test_a_model_with_it_is_saved_and_trained(tmp_path):
    options = {"pad_first": True, "always_partition": True}
    model = segzoo.UPerNet(
        SWIN, classes=2, depth=2, decoder_channels=8, encoder_options=options
    ).train()
    model(torch.rand(2, 3, 97, 64)).square().mean().backward()
    assert all(item.grad is not None for item in model.encoder.parameters())
    loaded = segzoo.from_pretrained(model.eval().save_pretrained(tmp_path))
    image = torch.rand(1, 3, 97, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    assert any(isinstance(item, PaddedFirst) for item in loaded.modules())


def test_other_encoders_have_no_such_blocks():
    with pytest.raises(ArgumentError, match="pad_first is for Swin transformers"):
        segzoo.create_encoder("test_resnet", options={"pad_first": True})
    with pytest.raises(ArgumentError, match="must be True or False"):
        segzoo.create_encoder(SWIN, options={"pad_first": 1})
