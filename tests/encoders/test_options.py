"""Options of encoders: what cannot be is refused in words, whoever asks and whatever file says it."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

import segzoo
from segzoo.encoders import ENCODERS
from segzoo.errors import ArgumentError, ConfigError

from ..helpers import TinyBackbone


class Told(TinyBackbone):
    """It has to be told something."""

    def __init__(self, in_channels: int, pretrained: bool, *, width: int) -> None:
        super().__init__(in_channels)
        self.width = width


def anything(in_channels: int, pretrained: bool, **options: object) -> nn.Module:
    return TinyBackbone(in_channels)


def nothing() -> nn.Module:
    return TinyBackbone()


@pytest.fixture(autouse=True)
def registered():
    own = {"tiny_plain": TinyBackbone, "tiny_told": Told, "tiny_any": anything, "tiny_no": nothing}
    for name, factory in own.items():
        segzoo.register_encoder(name)(factory)
    yield
    for name in own:
        del ENCODERS._entries[name]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mit_b0", {"drop_path": 0.1}, "of 'mit_b0' has no argument 'drop_path'. Did you mean drop_path_rate"),
        ("mit_b0", {"drop_path_rate": "x"}, "encoder_options['drop_path_rate'] must be a number"),
        ("mit_b0", {"drop_path_rate": 2}, "encoder_options['drop_path_rate'] must be between 0 and 1"),
        ("mit_b0", {"norm_eps": None}, "encoder_options['norm_eps'] must be a number"),
        ("mit_b0", {"depth": "2"}, "depth must be an integer"),
        ("mit_b0", {"in_channels": 4}, "of 'mit_b0' has no argument 'in_channels'"),
        ("smp_mobilenet_v2", {"drop_path_rate": -1}, "must be between 0 and 1"),
        ("smp_densenet121", {"drop_path_rate": 0.1}, "timm cannot build 'densenet121' with the options"),
        ("tiny_plain", {"widht": 3}, "has no argument 'widht'. It takes: none."),
        ("tiny_told", {"widht": 3}, "has no argument 'widht'. Did you mean width? It takes: width."),
        ("tiny_told", {}, "cannot be called with in_channels, pretrained: missing a required"),
        ("tiny_any", {"pretrained": True}, "has no argument 'pretrained'"),
        ("tiny_no", {}, "cannot be called with in_channels, pretrained: got an unexpected"),
        ("resnet18", {"out_indices": 2.5}, "out_indices must be integers between -5 and 4"),
        ("resnet18", {"out_indices": None}, "got None."),
        ("resnet18", {"out_indices": True}, "got True."),
    ],
)  # fmt: skip
def test_options_that_cannot_be(name, options, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        segzoo.create_encoder(name, options=options)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        segzoo.Unet(name, encoder_options=options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("mit_b0", {"drop_path": 0.1}), ("mit_b0", {"norm_eps": "x"}), ("tiny_plain", {"width": 3})],
)
def test_a_file_with_options_that_cannot_be(tmp_path, name, options):
    file = segzoo.FCN(name, classes=2).save_pretrained(tmp_path) / "config.json"
    config = json.loads(file.read_text())
    config["arguments"]["encoder_options"] = options
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=next(iter(options))):
        segzoo.from_pretrained(tmp_path)


def test_options_that_could_not_be_saved():
    for name in ("resnet18", "tiny_any"):
        with pytest.raises(ArgumentError, match=r"options\['act_layer'\] must be made of numbers"):
            segzoo.create_encoder(name, options={"act_layer": nn.ReLU})
    with pytest.raises(ArgumentError, match="a key of options must be a string"):
        segzoo.create_encoder("resnet18", options={3: 2})


@pytest.mark.parametrize(
    "encoder", ["tiny_any", "mit_b0", TinyBackbone()], ids=["own", "mit", "module"]
)
def test_a_size_is_for_backbones_that_are_built_for_one(encoder):
    with pytest.raises(ArgumentError, match=r"image_size=\(64, 48\) is for backbones of timm"):
        segzoo.Unet(encoder, classes=2, image_size=(64, 48))


def test_options_that_can_be(tmp_path):
    encoder = segzoo.create_encoder("tiny_told", options={"width": 3})
    assert encoder.backbone.width == 3
    assert segzoo.create_encoder("tiny_any", options={"whatever": [1, 2]}).strides == (2, 4)
    assert segzoo.create_encoder("mit_b0", options={"depth": 2}).strides == (4, 8)
    for name in ("mit_b0", "tiny_any"):
        with pytest.raises(ArgumentError, match=r"Give depth or encoder_options\['depth'\], not"):
            segzoo.create_encoder(name, depth=3, options={"depth": 2})
    model = segzoo.FCN("tiny_told", encoder_options={"width": 5}).eval()
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert loaded.encoder.backbone.width == 5
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded(image), model(image))
