"""Positions have values on the meta device, and tables of positions an end."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import segzoo
from segzoo.encoders.positions import PositionsHaveValues
from segzoo.errors import EncoderError


def meta(*shape):
    return torch.empty(shape, device="meta")


def test_a_position_outside_its_table_is_seen():
    with PositionsHaveValues():
        rows = torch.arange(5, device="meta")
        assert meta(5, 2)[rows].shape == (5, 2)
        for look_up in (
            lambda: meta(4, 2)[rows],
            lambda: meta(2, 4)[:, rows],
            lambda: meta(4, 2)[rows - 5],
            lambda: meta(4, 2).index_select(0, rows),
            lambda: meta(4, 2).gather(0, rows[:, None]),
            lambda: nn.functional.embedding(rows, meta(4, 2)),
        ):
            with pytest.raises(IndexError, match="in a table of 4"):
                look_up()


def test_positions_are_computed_as_on_any_device():
    def computed(device):
        y = torch.arange(4, dtype=torch.float32, device=device)[:, None]
        x = torch.linspace(0, 1, 3, device=device).expand(4, -1)
        grid = torch.stack([y.expand(-1, 3), x], dim=-1).flatten(0, 1).to(device)
        return grid[grid[:, 1] > 0.4] * 2

    with PositionsHaveValues():
        found = computed("meta")
    assert torch.equal(found, computed("cpu"))


def test_positions_meet_tensors_without_values():
    with PositionsHaveValues():
        positions = torch.arange(3, device="meta")
        assert int(positions.max()) == 2
        sums = positions + meta(2, 3)
        assert sums.is_meta
        assert sums.shape == (2, 3)
        unknown = meta(3).long()
        assert meta(1, 2)[unknown].shape == (3, 2)  # nothing is known of these


def test_what_is_large_has_a_shape_only():
    with PositionsHaveValues():
        line = torch.arange(30_000, device="meta")
        assert not line.is_meta
        pairs = line[:, None] - line
        assert pairs.is_meta
        assert pairs.shape == (30_000, 30_000)
        assert torch.arange(2**40, device="meta").is_meta


def test_what_is_made_of_few_positions_may_be_large():
    """As a row of zeros with a one for each position, which would take gigabytes."""
    with PositionsHaveValues():
        assert not torch.zeros(3, 4).is_meta
        assert torch.zeros(2**40).is_meta
        rows = torch.arange(3, device="meta")
        assert torch.equal(nn.functional.one_hot(rows, num_classes=4), torch.eye(3, 4).long())
        many = nn.functional.one_hot(rows, num_classes=2**40)
        assert many.is_meta
        assert many.shape == (3, 2**40)


def test_a_table_of_positions_that_ends_makes_a_fixed_size():
    backbone = timm.create_model("mvitv2_tiny", features_only=True).eval()
    with pytest.raises(IndexError), torch.no_grad():
        backbone(torch.rand(1, 3, 256, 256))
    assert segzoo.encoder_info("mvitv2_tiny").size_rule.fixed == (224, 224)
    assert segzoo.create_encoder(backbone).size_rule.fixed == (224, 224)


def test_such_a_backbone_is_built_for_the_size_that_is_asked_for():
    encoder = segzoo.create_encoder("mvitv2_tiny", image_size=(250, 257)).eval()
    assert encoder.size_rule.padded == (250, 257)
    with torch.no_grad():
        finest = encoder(torch.rand(1, 3, 250, 257))[0]
    assert finest.shape[-2:] == (63, 65)  # one for each 4x4 pixels: not resized


@pytest.mark.parametrize(
    ("name", "size"), [("mvitv2_tiny", (250, 257)), ("swin_tiny_patch4_window7_224", (3, 3))]
)
def test_a_size_that_cannot_be_built_names_the_argument_that_finds_one(name, size):
    with pytest.raises(EncoderError, match="Give image_size instead of img_size"):
        segzoo.Unet(name, encoder_options={"img_size": size})


@pytest.mark.skipif(not timm.is_model("gemma4_vit_167m"), reason="an older timm")
def test_a_backbone_that_reads_its_positions_is_described_without_weights(monkeypatch):
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", None)  # nothing is initialised
    info = segzoo.encoder_info("gemma4_vit_167m")
    assert info.gflops > 10
    assert info.size_rule.multiple == 16
