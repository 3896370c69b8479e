"""A saved model for other classes or bands."""

from __future__ import annotations

import logging

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError
from tests.model_folders import logits, small


def test_another_number_of_classes(tmp_path, caplog):
    saved = small(class_names=("a", "b"))
    saved.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = segzoo.from_pretrained(tmp_path, classes=7)
    assert caplog.messages == [
        "Unet now has 7 classes and 3 bands; new and untrained: head.conv.weight, head.conv.bias."
    ]
    assert model.classes == 7
    assert model.config.class_names is None
    assert not model.training
    for name, tensor in saved.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(model.state_dict()[name], tensor), name
    model.save_pretrained(tmp_path / "seven")
    assert torch.equal(logits(segzoo.from_pretrained(tmp_path / "seven")), logits(model))


@pytest.mark.parametrize("bands", [1, 4])
def test_another_number_of_bands(tmp_path, caplog, bands):
    saved = small()
    saved.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = segzoo.from_pretrained(tmp_path, in_channels=bands)
    assert caplog.messages == [
        f"Unet now has 2 classes and {bands} bands; new and untrained: nothing."
    ]
    assert len(model.normalization.mean) == bands
    grey = torch.rand(1, 1, 64, 64)
    if bands == 1:  # timm sums over RGB: a grey image gives what it gave as RGB
        with torch.no_grad():
            torch.testing.assert_close(model(grey), saved(grey.expand(-1, 3, -1, -1)))


def test_the_same_numbers_change_nothing(tmp_path, caplog):
    saved = small()
    saved.save_pretrained(tmp_path)
    model = segzoo.from_pretrained(tmp_path, classes=2, in_channels=3)
    assert torch.equal(logits(model), logits(saved))
    assert caplog.messages == []
    with pytest.raises(ArgumentError, match="classes must be between"):
        segzoo.from_pretrained(tmp_path, classes=0)


def test_the_type_of_the_weights_stays(tmp_path):
    small().bfloat16().save_pretrained(tmp_path)
    model = segzoo.from_pretrained(tmp_path, classes=7)
    assert {item.dtype for item in model.parameters()} == {torch.bfloat16}
    assert all(item.requires_grad for item in model.parameters())
