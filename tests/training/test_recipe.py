"""Recipes: what they take, how they say no, and their way through JSON."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import segzoo
from segzoo.errors import ArgumentError, UnknownKeywordError, UnknownNameError

#: Another valid value for each field.
OTHERS = {
    "epochs": 3,
    "batch_size": "auto",
    "accumulate": 2,
    "learning_rate": "find",
    "weight_decay": 0.1,
    "warmup": 0.1,
    "clip_norm": None,
    "precision": "float32",
    "channels_last": False,
    "ema": 0.99,
    "encoder_scale": 0.5,
    "layer_decay": 0.75,
    "freeze_epochs": 1,
    "keep_features": True,
    "patience": 4,
    "seed": 9,
    "size": (90, 120),
    "hflip": False,
    "vflip": True,
    "scale": (0.5, 2.0),
    "crop": (64, 64),
    "color": 0.2,
    "rare_class_crops": 0.3,
    "cross_entropy": 0.5,
    "dice": 0.0,
    "focal": 1.0,
    "focal_gamma": 1.0,
    "boundary": 0.5,
    "lovasz": 0.5,
    "auxiliary": 0.1,
    "class_weights": (1.0, 2.0),
    "label_smoothing": 0.1,
    "teacher": "large-model",
    "temperature": 4.0,
    "distillation": 0.5,
    "sharding": "full",
    "sync_batch_norm": True,
}


def test_every_field_is_said_and_goes_through_json():
    names = [field.name for field in dataclasses.fields(segzoo.Recipe)]
    assert names == list(OTHERS)
    said = inspect.getdoc(segzoo.Recipe)
    for name, value in OTHERS.items():
        assert f"\n    {name}: " in said
        recipe = segzoo.Recipe(**{name: value})
        assert getattr(recipe, name) == value != getattr(segzoo.Recipe(), name)
        assert segzoo.Recipe.from_json(recipe.to_json()) == recipe


def test_a_recipe_does_not_change_and_equal_ones_are_equal():
    with pytest.raises(dataclasses.FrozenInstanceError):
        segzoo.Recipe().epochs = 3
    assert segzoo.Recipe(learning_rate=1, scale=[1, 2], size=[8, 9]) == segzoo.Recipe(
        learning_rate=1.0, scale=(1.0, 2.0), size=(8, 9)
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"epochs": 0}, "epochs must be between 1"),
        ({"epochs": 2.0}, "epochs must be an integer"),
        ({"batch_size": 0}, "batch_size must be between 1"),
        ({"learning_rate": 0}, "learning_rate must be between"),
        ({"learning_rate": float("nan")}, "learning_rate must be between"),
        ({"hflip": 1}, "hflip must be True or False"),
        ({"size": 512}, "size must be a sequence"),
        ({"size": (512,)}, "size must be .height, width."),
        ({"crop": (512, 0)}, "crop.1. must be between 1"),
        ({"scale": (2.0, 1.0)}, "smallest, largest"),
        ({"encoder_scale": 1e10}, "encoder_scale must be between"),
        ({"encoder_scale": 0.3, "layer_decay": 0.7}, "give one of them"),
        ({"cross_entropy": 0, "dice": 0}, "All losses have the weight 0"),
        ({"class_weights": (-1.0,)}, "class_weights.0. must be between 0"),
        ({"ema": 1.5}, "ema must be between 0 and 1"),
        ({"sync_batch_norm": 1}, "sync_batch_norm must be True or False"),
        ({"sharding": "full", "keep_features": True}, "leave keep_features out"),
        ({"sharding": "full", "batch_size": "auto"}, "Give batch_size a number"),
    ],
)
def test_values_that_cannot_work(values, reason):
    with pytest.raises(ArgumentError, match=reason):
        segzoo.Recipe(**values)


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("scale", (0.05, 20), True),
        ("scale", (0.049, 1), False),
        ("scale", (1, 20.5), False),
        ("scale", (1, 1, 1), False),
        *((name, (65535, 1), True) for name in ("size", "crop")),
        *((name, (1, 65536), False) for name in ("size", "crop")),
        *((name, (0, 1), False) for name in ("size", "crop")),
        *((name, 1, True) for name in ("color", "rare_class_crops")),
        *((name, 1.01, False) for name in ("color", "rare_class_crops")),
        *((name, 1, False) for name in ("hflip", "vflip")),
    ],
)
def test_what_augments_takes_the_same_values(name, value, fits):
    """Else a training would be refused after its folder was begun."""
    for kind in (segzoo.Recipe, segzoo.Augmentation):
        if not fits:
            with pytest.raises(ArgumentError, match=name):
                kind(**{name: value})
            continue
        assert getattr(kind(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"batch_size": "atuo"}, "Did you mean auto"),
        ({"precision": "bfloat"}, "Did you mean bfloat16"),
        ({"class_weights": "balance"}, "Did you mean balanced"),
        ({"learning_rate": "fnd"}, "Did you mean find"),
        ({"sharding": "ful"}, "Did you mean full"),
    ],
)
def test_a_word_that_is_misspelt_is_told_the_nearest(values, hint):
    with pytest.raises(UnknownNameError, match=hint):
        segzoo.Recipe(**values)


def test_an_unknown_field_is_told_the_nearest():
    with pytest.raises(UnknownKeywordError, match="Did you mean epochs"):
        segzoo.Recipe().changed({"epoch": 3})
    with pytest.raises(UnknownKeywordError, match="Did you mean learning_rate"):
        segzoo.Recipe.from_json('{"learning-rate": 0.1}')


@pytest.mark.parametrize("text", ["", "[]", "{", '{"epochs": NaN}', '{"epochs": 1, "epochs": 2}'])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(ArgumentError, match="not valid JSON"):
        segzoo.Recipe.from_json(text)
