"""Features of a frozen encoder: computed once, and no bit is another one for it."""

from __future__ import annotations

import copy

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, TrainingError
from segzoo.training.features import FeatureCache, _computer, _weights_key, stands_still

from .killing import outcome
from .toys import ENCODER, toy_model
from .trainings import assert_same, train

RECIPE = segzoo.Recipe(epochs=3, batch_size=4, keep_features=True, precision="float32")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)


@pytest.fixture
def caches(monkeypatch):
    """Those that are made in a test."""
    made = []
    begin = FeatureCache.__init__

    def remembered(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(FeatureCache, "__init__", remembered)
    return made


def frozen():
    return toy_model().freeze_encoder()


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A training that keeps nothing, so that every image is computed each time."""
    out = tmp_path_factory.mktemp("computed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)
        train(out, RECIPE, model=frozen(), feature_bytes=0)
    return out


def test_what_is_kept_changes_no_bit(computed, caches, tmp_path):
    train(tmp_path / "kept", RECIPE, model=frozen())
    assert_same(tmp_path / "kept", computed)
    (cache,) = caches
    # Eight images, mirrored or not, and three to judge by, in three epochs.
    assert cache.hits + cache.misses == 3 * (8 + 3)
    assert 8 + 3 <= cache.misses <= 16 + 3
    one = cache.used // cache.misses
    train(tmp_path / "some", RECIPE, model=frozen(), feature_bytes=3 * one)
    assert_same(tmp_path / "some", computed)
    assert caches[1].used == 3 * one
    assert cache.misses < caches[1].misses < 3 * (8 + 3)


def test_in_a_folder_they_outlive_a_training(computed, caches, tmp_path):
    for name in ("first", "second"):
        train(tmp_path / name, RECIPE, model=frozen(), feature_folder=tmp_path / "features")
        assert_same(tmp_path / name, computed)
    assert caches[0].misses == len(list((tmp_path / "features").glob("*/*.safetensors")))
    assert caches[1].misses == 0
    # What is damaged is computed again; of another encoder nothing is taken.
    for file in (tmp_path / "features").glob("*/*.safetensors"):
        file.write_bytes(b"half")
    train(tmp_path / "third", RECIPE, model=frozen(), feature_folder=tmp_path / "features")
    assert_same(tmp_path / "third", computed)
    other = frozen()
    torch.nn.init.ones_(other.encoder.backbone.fine[0].bias)
    train(tmp_path / "other", RECIPE, model=other, feature_folder=tmp_path / "features")
    assert caches[3].misses == caches[0].misses


def test_a_training_that_was_stopped_ends_with_the_same_bits(computed, tmp_path):
    def stop(row):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(tmp_path / "out", RECIPE, model=frozen(), on_epoch=stop)
    train(tmp_path / "out", RECIPE, model=frozen())
    assert_same(tmp_path / "out", computed)


def test_as_without_but_for_the_rounding_of_batches(computed, tmp_path):
    plain = RECIPE.changed({"keep_features": False})
    train(tmp_path / "plain", plain, model=frozen())
    (weights, rows), (others, other_rows) = outcome(tmp_path / "plain"), outcome(computed)
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=1e-3, atol=1e-4, msg=name)
    assert [row["step"] for row in rows] == [row["step"] for row in other_rows]


def test_they_are_kept_as_long_as_the_encoder_stands_still(caches, tmp_path):
    recipe = RECIPE.changed({"epochs": 1, "freeze_epochs": 2, "ema": 0.9})
    model = toy_model()
    before = model.encoder.backbone.fine[0].weight.clone()
    same = []

    def look(row):
        same.append(torch.equal(model.encoder.backbone.fine[0].weight, before))

    train(tmp_path / "out", recipe, model=model, on_epoch=look)
    (cache,) = caches
    assert cache.hits + cache.misses == 2 * (8 + 3)
    assert same == [True, True, False]
    assert not stands_still(model.encoder)


def test_heads_and_tokens_are_computed_from_what_is_kept(tmp_path):
    model = segzoo.DPT(
        "test_vit",
        classes=3,
        decoder_channels=8,
        reassemble_channels=(4, 4, 4, 4),
        auxiliary_stride=16,
    )
    cache = FeatureCache(model.freeze_encoder().eval())
    image = torch.rand(2, 3, 33, 50)
    with torch.no_grad():
        expected = model.forward_heads(image)
        for _ in range(2):
            maps = cache.maps(image, image, channels_last=False)
            assert len(maps) == 2 * len(model.encoder.features)
            found = model.forward_heads(image, maps=maps)
            torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.auxiliary, expected.auxiliary, rtol=1e-4, atol=1e-5)
    assert (cache.hits, cache.misses) == (2, 2)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (toy_model, {}, r"this one learns\. Freeze it \(model\.freeze_encoder\(\)"),
        (lambda: toy_model().freeze_encoder(1), {}, "this one learns"),
        (frozen, {"color": 0.2, "crop": (16, 16)}, r"with crop=\(16, 16\), color=0.2 an image"),
        (frozen, {"scale": (0.5, 2.0)}, "an image is never the same again"),
    ],
)
def test_what_would_never_be_used_again_is_refused(model, values, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        train(tmp_path / "out", RECIPE.changed(values), model=model())
    assert not (tmp_path / "out").exists()


def test_another_part_that_is_frozen_is_another_training(tmp_path):
    recipe = segzoo.Recipe(epochs=1, batch_size=4)
    train(tmp_path / "out", recipe, model=frozen())
    with pytest.raises(TrainingError, match="frozen_stages was 2, is None"):
        train(tmp_path / "out", recipe)


def test_a_linear_head_on_it_learns(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = segzoo.LinearHead(ENCODER, classes=3).freeze_encoder()
    recipe = RECIPE.changed({"epochs": 20, "learning_rate": 0.05})
    result = train(tmp_path / "out", recipe, model=model)
    assert result.history[-1]["loss"] < 0.6 * result.history[0]["loss"]
    assert result.scores.miou > result.history[0]["val"]["miou"]


def test_heads_of_one_encoder_are_trained_one_by_one(tmp_path):
    heads = {name: segzoo.Head("linear_head", classes=3) for name in ("road", "sky")}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = segzoo.MultiHead(ENCODER, heads=heads)
    message = r"has 2 heads \(road, sky\), .* segzoo.train\(model.single\('road'\), data, out=...\)"
    with pytest.raises(ArgumentError, match=message):
        train(tmp_path / "none", RECIPE, model=model)
    assert not (tmp_path / "none").exists()
    image = torch.rand(1, 3, 24, 32)
    before = model.freeze_encoder().eval().answers(image)
    result = train(tmp_path / "sky", RECIPE, model=model.single("sky"))
    after = model.eval().answers(image)
    assert torch.equal(after["road"], before["road"])
    assert not torch.equal(after["sky"], before["sky"])
    assert torch.equal(after["sky"], result.model(image))
    one = segzoo.MultiHead(ENCODER, heads={"sky": heads["sky"]})
    assert train(tmp_path / "one", RECIPE.changed({"epochs": 1, "keep_features": False}), model=one)


def test_what_another_kind_of_device_computed_is_not_taken(monkeypatch):
    model = frozen()
    here = _weights_key(model, "")
    assert _weights_key(model, "") == here
    assert _computer(copy.deepcopy(model).to("meta")) != _computer(model)
    monkeypatch.setattr("segzoo.training.features._computer", lambda model: "another")
    assert _weights_key(model, "") != here
