import dataclasses
import json
from typing import Any

import pytest

import segzoo
from segzoo import checks
from segzoo.architectures.unet import UnetConfig
from segzoo.errors import ArgumentError, UnknownKeywordError, UnknownNameError


def test_a_config_survives_json():
    config = UnetConfig(
        "resnet34.a1_in1k",
        2,
        in_channels=4,
        image_size=(250, 317),
        normalization=segzoo.Normalization((0.1,) * 4, (0.2,) * 4),
        class_names=("sky", "road"),
        encoder_options={
            **{"drop_path_rate": 0.1, "out_indices": [0, 2], "dynamic_img_size": True},
            **{"norm_layer": "", "act_layer": "gelu", "strict_img_size": False, "pad": None},
        },
        decoder_channels=(64, 32),
        attention="scse",
        dropout=0.25,
    )
    text = json.dumps(config.arguments())
    assert UnetConfig.from_arguments(json.loads(text)) == config


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        UnetConfig().classes = 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes must be between 1 and 65536, got 0"),
        ({"classes": 10**9}, "classes must be between 1 and 65536"),
        ({"classes": True}, "classes must be an integer, got True"),
        ({"classes": 2.0}, r"classes must be an integer, got 2\.0"),
        ({"in_channels": -1}, "in_channels must be between 1"),
        ({"depth": 0}, "depth must be between 1"),
        ({"pretrained": 1}, "pretrained must be True or False"),
        ({"encoder": 34}, "encoder must be a string, got 34"),
        ({"encoder": ""}, "encoder must have 1 to 256 characters"),
        ({"image_size": (256,)}, r"image_size must be \(height, width\)"),
        ({"image_size": 256}, "image_size must be a sequence"),
        ({"normalization": (0.5, 0.5)}, "normalization must be a segzoo.Normalization"),
        (
            {"normalization": segzoo.Normalization((0.5,), (1,))},
            "is for 1 bands, but in_channels=3",
        ),
        ({"class_names": ("sky",), "classes": 2}, "class_names has 1 names for classes=2"),
        ({"encoder_options": [1]}, "encoder_options must be a mapping"),
        ({"encoder_options": {"norm_layer": object()}}, "so that it can be saved"),
        ({"decoder_channels": (64, 0)}, r"decoder_channels\[1\] must be between 1"),
        ({"decoder_channels": (10**9,)}, r"decoder_channels\[0\] must be between"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1"),
    ],
)
def test_values_out_of_range_say_what_came_and_what_was_expected(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        UnetConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"norm": "bacth"}, "Did you mean batch"),
        ({"attention": "scs"}, "Did you mean scse"),
        ({"interpolation": "bilnear"}, "Did you mean bilinear"),
    ],
)
def test_unknown_choices_get_the_nearest(arguments, hint):
    with pytest.raises(UnknownNameError, match=hint):
        UnetConfig(**arguments)


def test_a_misspelt_keyword_gets_the_nearest_and_is_a_type_error():
    with pytest.raises(UnknownKeywordError, match=r"no argument 'clases'\. Did you mean classes"):
        segzoo.Unet("resnet18", clases=3)
    with pytest.raises(TypeError):
        segzoo.Unet("resnet18", clases=3)
    with pytest.raises(UnknownKeywordError, match="Did you mean norm"):
        UnetConfig.from_arguments({"nrom": "batch"})


def test_pretrained_is_no_part_of_a_saved_config():
    assert "pretrained" not in UnetConfig(pretrained=True).arguments()
    with pytest.raises(UnknownKeywordError):
        UnetConfig.from_arguments({"pretrained": True})


def test_values_in_messages_are_short_whatever_they_are():
    nested: Any = 0
    for _ in range(6):
        nested = [nested] * 6
    assert len(checks.shown(nested)) < 1100
    with pytest.raises(ArgumentError, match="got <a number of 16610 bits>"):
        segzoo.Unet("test_resnet", 10**5000)
