"""A model of queries goes through segzoo.train like any other."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError
from segzoo.losses import QueryLoss, distillation_loss
from segzoo.training.learner import Learner, Settled
from segzoo.training.objective import (
    AllQueries,
    AnswersQueries,
    has_unused,
    logits_of,
    mask_chances,
)
from segzoo.training.optimizer import encoder_layers, make_optimizer
from segzoo.training.processes import Processes
from segzoo.training.teacher import Teacher

from .toys import Blobs, toy_model
from .trainings import assert_same, train

RECIPE = segzoo.Recipe(epochs=2, batch_size=4, precision="float32", learning_rate=3e-3)


@pytest.fixture(autouse=True)
def few_points_and_no_pictures(monkeypatch):
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)
    monkeypatch.setitem(QueryLoss.__init__.__kwdefaults__, "points", 200)


def eomt(**arguments):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return segzoo.EoMT("test_vit", classes=3, queries=8, blocks=2, **arguments)


def blobs():
    return Blobs(8, size=(32, 48), ignore_index=255), Blobs(3, seed=1, size=(32, 48), ignore_index=255)  # fmt: skip


def test_it_trains_stops_and_goes_on(tmp_path):
    def stop(row):
        raise RuntimeError

    options = {"given": blobs(), "ignore_index": 255}
    result = train(tmp_path / "whole", RECIPE, model=eomt(), **options)
    with pytest.raises(RuntimeError):
        train(tmp_path / "out", RECIPE, model=eomt(), on_epoch=stop, **options)
    train(tmp_path / "out", RECIPE, model=eomt(), **options)
    assert_same(tmp_path / "out", tmp_path / "whole")
    assert result.history[1]["loss"] < result.history[0]["loss"]
    loaded = segzoo.from_pretrained(tmp_path / "out")
    assert loaded.predict(blobs()[1][0][0]).shape == (32, 48)


def test_every_weight_learns_and_every_layer_is_judged():
    model = eomt()
    made = Learner(model, RECIPE, Settled(4, 1e-2, "float32"), Processes("cpu"), ignore_index=255)
    made.begin(frozen=False)
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append("forward"))
    given = model.forward_queries

    def spied(image, *, attention_mask_probability=0.0):
        seen.append(list(attention_mask_probability))
        return given(image, attention_mask_probability=attention_mask_probability)

    model.forward_queries = spied
    batch = tuple(torch.stack(items) for items in zip(*(blobs()[0][i] for i in range(4)), strict=True))  # fmt: skip
    made.update([batch], 1.0, 0.9, progress=0.375)
    assert seen == [pytest.approx([0.5**0.9, 1.0])]
    unused = [name for name, item in model.named_parameters() if not len(made.optimizer.state[item])]  # fmt: skip
    del model.forward_queries
    assert not unused
    assert not has_unused(AllQueries(model))
    assert isinstance(model, AnswersQueries)
    assert not isinstance(toy_model(), AnswersQueries)


def test_they_are_taught_as_pixels_are(tmp_path):
    """By the very logits that the model gives where it only predicts."""
    toy_model().save_pretrained(tmp_path / "teacher")
    recipe = RECIPE.changed({"teacher": str(tmp_path / "teacher"), "distillation": 0.5})
    model, image = eomt().eval(), torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        found = logits_of(model.forward_queries(image), (32, 48))
        torch.testing.assert_close(found, model(image), rtol=1e-3, atol=1e-3)
    teacher = Teacher.of(recipe, model)
    made = Learner(model, recipe, Settled(4, 1e-2, "float32"), Processes("cpu"), ignore_index=255, teacher=teacher)  # fmt: skip
    made.begin(frozen=False)
    batch = tuple(torch.stack(items) for items in zip(*(blobs()[0][i] for i in range(4)), strict=True))  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        taught = made.loss_of(batch)
        torch.manual_seed(0)
        made.teacher = None
        alone = made.loss_of(batch)
    model.train()
    normalised = model.normalization(batch[0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outputs = model.forward_queries(normalised, attention_mask_probability=mask_chances(2, 0.0))
    more = distillation_loss(logits_of(outputs, (32, 48)), teacher.answers(batch[0], channels_last=True), batch[1], ignore_index=255)  # fmt: skip
    torch.testing.assert_close(taught - alone, 0.5 * more, rtol=1e-3, atol=1e-3)


def test_attention_masks_are_given_up_block_by_block():
    assert mask_chances(4, 0.0) == [1.0] * 4
    assert mask_chances(4, 1.0) == [0.0] * 4
    steps = [mask_chances(4, i / 60) for i in range(61)]
    for block in range(4):
        chances = [step[block] for step in steps]
        assert chances == sorted(chances, reverse=True)
        falling = [i / 60 for i, chance in enumerate(chances) if 0 < chance < 1]
        assert (block + 1) / 6 < min(falling) < max(falling) < (block + 2) / 6


def test_layers_of_the_transformer_have_rates_of_their_own():
    model = eomt()
    blocks = next(m for name, m in model.encoder.named_modules() if name.endswith("model.blocks"))
    layers = encoder_layers(model)
    place = {id(item): i for i, layer in enumerate(layers) for item in layer}
    places = [{place[id(item)] for item in block.parameters()} for block in blocks]
    assert all(len(found) == 1 for found in places)
    assert [min(found) for found in places] == sorted({min(found) for found in places})
    optimizer = make_optimizer(model, segzoo.Recipe(layer_decay=0.5), 1.0)
    rates = {id(i): group["peak"] for group in optimizer.param_groups for i in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, item in model.named_parameters():
        if name.startswith("decoder.") or "quer" in name.rpartition(".")[2]:
            assert rates[id(item)] == 1.0, name


def test_weights_of_classes_reach_the_loss():
    recipe = RECIPE.changed({"class_weights": "balanced", "cross_entropy": 0.5})
    settled = Settled(4, 1e-2, "float32", (1.0, 2.0, 0.5))
    made = Learner(eomt(), recipe, settled, Processes("cpu"), ignore_index=255)
    assert made.loss.class_weights.tolist() == [1.0, 2.0, 0.5]
    assert made.loss.class_weight == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"focal": 1.0, "lovasz": 1.0}, "trained by its queries: focal, lovasz cannot be had"),
        ({"label_smoothing": 0.1}, "label_smoothing cannot be had"),
        ({"keep_features": True}, "keep_features cannot be had"),
    ],
)
def test_what_queries_cannot_learn_by(values, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        train(tmp_path / "out", RECIPE.changed(values), model=eomt(), given=blobs(), ignore_index=255)  # fmt: skip
