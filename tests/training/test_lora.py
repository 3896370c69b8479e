"""LoRA by peft: where it goes, how it learns, and the plain model that it becomes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import segzoo
from segzoo.errors import (
    ArgumentError,
    MissingPackageError,
    StorageError,
    UnknownNameError,
)
from segzoo.training.lora import lora_key

from .toys import Blobs
from .trainings import assert_same, train

peft = pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)


@pytest.fixture(scope="module")
def first():
    """A model that is copied for each test."""
    torch.manual_seed(0)
    return segzoo.LinearHead("test_vit", classes=3)


def adapted(first, **options):
    """With matrices that are not zero any more."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = segzoo.add_lora(copy.deepcopy(first), **options)
        for name, item in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(item, std=0.05)
    return model


def test_the_encoder_stands_still_and_the_rest_learns(first):
    model = segzoo.add_lora(copy.deepcopy(first), rank=4)
    image = torch.rand(2, 3, 33, 50)
    with torch.no_grad():
        assert torch.equal(model.eval()(image), first.eval()(image))
    trained = {name for name, item in model.named_parameters() if item.requires_grad}
    inside = {name for name in trained if name.startswith("encoder.")}
    assert trained - inside == {
        name for name, _ in first.named_parameters() if not name.startswith("encoder.")
    }
    assert len(inside) == 2 * 2 * 6  # two matrices for each of two layers in six blocks
    assert all(".lora_" in name for name in inside)


@pytest.mark.parametrize(
    "options", [{}, {"rank": 2, "alpha": 1, "targets": ["fc1", "attn.proj", "patch_embed.proj"]}]
)
def test_merged_it_is_a_plain_model_with_the_sum_of_both_weights(first, tmp_path, options):
    model = adapted(first, **options).eval()
    before = copy.deepcopy(model.state_dict())
    merged = segzoo.merge_lora(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert type(merged) is segzoo.LinearHead
    assert list(merged.state_dict()) == list(first.state_dict())
    changed = 0
    layers = dict(model.named_modules())
    for name, value in merged.state_dict().items():
        layer = layers[name.rpartition(".")[0]]
        weight = first.state_dict()[name]
        if hasattr(layer, "lora_A") and name.endswith(".weight"):
            weight = weight + layer.get_delta_weight("default")
            changed += 1
        assert torch.equal(value, weight), name
    assert changed == (12 if not options else 13)
    image = torch.rand(2, 3, 33, 50)
    with torch.no_grad():
        torch.testing.assert_close(merged(image), model(image), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(merged(image), first.eval()(image), atol=1e-3)
        loaded = segzoo.from_pretrained(merged.save_pretrained(tmp_path))
        assert torch.equal(loaded(image), merged(image))
    for name, value in merged.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert all(item.requires_grad for item in merged.parameters())
    with pytest.raises(StorageError, match=r"segzoo\.merge_lora"):
        model.save_pretrained(tmp_path / "adapted")


def test_it_is_what_peft_itself_merges(first):
    config = peft.LoraConfig(
        target_modules=["qkv"], modules_to_save=["head"], r=4, init_lora_weights=False
    )
    with torch.random.fork_rng():
        theirs = peft.get_peft_model(copy.deepcopy(first), config)
        nn.init.normal_(
            next(item for name, item in theirs.named_parameters() if "modules_to_save" in name)
        )
    merged = segzoo.merge_lora(theirs)
    expected = theirs.merge_and_unload().state_dict()
    assert merged.state_dict().keys() == expected.keys()
    for name, value in merged.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_it_trains_stops_goes_on_and_is_saved_plain(first, tmp_path):
    given = Blobs(8, size=(32, 48)), Blobs(3, seed=1, size=(32, 48))
    recipe = segzoo.Recipe(epochs=2, batch_size=4, layer_decay=0.9, ema=0.5, precision="float32")

    def stop(row):
        raise RuntimeError

    model = adapted(first, rank=4, dropout=0.1)
    frozen = model.encoder.backbone.model.blocks[0].attn.qkv.base_layer.weight
    result = train(tmp_path / "whole", recipe, model=model, given=given)
    assert torch.equal(frozen, first.encoder.backbone.model.blocks[0].attn.qkv.weight)
    assert list(result.model.state_dict()) == list(first.state_dict())
    loaded = segzoo.from_pretrained(tmp_path / "whole")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, result.model.state_dict()[name]), name
    with pytest.raises(RuntimeError):
        train(
            tmp_path / "out",
            recipe,
            model=adapted(first, rank=4, dropout=0.1),
            given=given,
            on_epoch=stop,
        )
    train(tmp_path / "out", recipe, model=adapted(first, rank=4, dropout=0.1), given=given)
    assert_same(tmp_path / "out", tmp_path / "whole")
    keys = {lora_key(adapted(first, **options)) for options in ({}, {"rank": 2}, {"alpha": 3})}
    assert len(keys) == 3
    assert lora_key(first) is None


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"targets": ["qvk"]},
            UnknownNameError,
            r"'test_vit.*' is called 'qvk'. Did you mean qkv\? There are: .*fc1 \(6\)",
        ),
        ({"targets": ["kv"]}, UnknownNameError, "is called 'kv'"),
        ({"targets": []}, ArgumentError, "targets names no layer"),
        ({"targets": "qkv"}, ArgumentError, "targets must be a sequence"),
        ({"rank": 0}, ArgumentError, "rank must be between 1"),
        ({"dropout": 2}, ArgumentError, "dropout must be between 0 and 1"),
    ],
)
def test_what_cannot_be_adapted(first, options, kind, message):
    with pytest.raises(kind, match=message):
        segzoo.add_lora(first, **options)
    assert not any("lora" in name for name, _ in first.named_parameters())


def test_what_could_not_be_merged_again_is_not_adapted():
    model = segzoo.FCN("mobilenetv3_small_050", classes=2).freeze_encoder()
    before = list(model.state_dict())
    with pytest.raises(
        ArgumentError, match=r"'conv_dw' names backbone\..*conv_dw, a convolution of 16 groups"
    ):
        segzoo.add_lora(model, targets=["conv_stem", "conv_dw"])
    assert list(model.state_dict()) == before
    assert model.encoder.frozen_stages == len(model.encoder.features)


def test_a_frozen_encoder_stands_still_and_its_matrices_learn(first, tmp_path):
    def learning(model):
        return {name for name, item in model.named_parameters() if item.requires_grad}

    expected = learning(segzoo.add_lora(copy.deepcopy(first), rank=2))
    model = segzoo.add_lora(copy.deepcopy(first).freeze_encoder(), rank=2)
    assert learning(model) == expected
    model.unfreeze_encoder()
    assert learning(model) == expected
    inside = {name for name in expected if name.startswith("encoder.")}
    assert learning(model.freeze_encoder()) == expected - inside
    model.train()
    assert not model.encoder.backbone.training
    merged = segzoo.merge_lora(model)
    assert merged.encoder.frozen_stages == 0
    assert all(item.requires_grad for item in merged.parameters())
    assert merged.train().encoder.backbone.training
    assert learning(model.unfreeze_encoder()) == expected

    given = Blobs(4, size=(32, 48)), Blobs(2, seed=1, size=(32, 48))
    model = segzoo.add_lora(copy.deepcopy(first).freeze_encoder(), rank=2)
    before = copy.deepcopy(model.state_dict())
    recipe = segzoo.Recipe(epochs=1, freeze_epochs=1, batch_size=4, precision="float32")
    train(tmp_path / "out", recipe, model=model, given=given)
    changed = {
        name for name, item in model.named_parameters() if not torch.equal(item, before[name])
    }
    assert changed == expected


def test_adapters_of_others_leave_nothing_half_done(first):
    model = copy.deepcopy(first).freeze_encoder()
    config = peft.LoraConfig(target_modules=["qkv"], r=2)
    peft.inject_adapter_in_model(config, model.encoder)
    for _ in range(2):
        model.freeze_encoder()
        assert not any(item.requires_grad for item in model.encoder.parameters())
        model.unfreeze_encoder()
        assert model.encoder.frozen_stages == 0
        assert all(
            item.requires_grad for name, item in model.encoder.named_parameters() if "lora" in name
        )


def test_once_only_and_merged_only_what_is_there(first):
    with pytest.raises(ArgumentError, match="has LoRA already"):
        segzoo.add_lora(adapted(first))
    with pytest.raises(ArgumentError, match="no LoRA in this LinearHead"):
        segzoo.merge_lora(first)
    with pytest.raises(ArgumentError, match="no model of segzoo in this Linear"):
        segzoo.merge_lora(nn.Linear(2, 2))
    broken = adapted(first)
    nn.init.constant_(next(i for n, i in broken.named_parameters() if "lora_B" in n), torch.inf)
    with pytest.raises(ArgumentError, match="cannot be merged"):
        segzoo.merge_lora(broken)


def test_without_peft(first, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingPackageError, match=r"segzoo\[lora\]"):
        segzoo.add_lora(first)
