"""segzoo.train: what it leaves, what it goes on with, and what it refuses."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, DataError, StorageError, TrainingError
from segzoo.training.validate import Validator, batched

from .toys import Blobs, toy_model
from .trainings import RECIPE, assert_same, data, state_of, train


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Most tests look at no picture, and drawing takes longer than the training."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)


@pytest.fixture
def pictures():
    """For a test that looks at them."""


def test_what_is_left_behind(tmp_path, pictures):
    out = tmp_path / "model"
    rows = []
    random = torch.get_rng_state()
    model = toy_model()
    result = train(out, model=model, on_epoch=rows.append)
    assert torch.equal(torch.get_rng_state(), random)
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", "training"}
    inside = out / "training"
    assert segzoo.Recipe.from_json((inside / "recipe.json").read_text()) == RECIPE
    described = json.loads((inside / "data.json").read_text())
    assert described["counts"] == {"train": 8, "val": 3}
    lines = [json.loads(line) for line in (inside / "metrics.jsonl").read_text().splitlines()]
    assert lines == rows == list(result.history)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [2, 4]
    metrics = json.loads((inside / "metrics.json").read_text())
    assert metrics["epoch"] == result.best_epoch
    best = max(row["val"]["miou"] for row in rows)
    assert metrics["val"]["miou"] == result.scores.miou
    assert metrics["versions"]["segzoo"] == segzoo.__version__
    assert result.scores.miou == pytest.approx(best, abs=0.01)  # the one is in float32
    drawn = {path.relative_to(inside).as_posix() for path in inside.rglob("*.png")}
    assert drawn >= {"curves.png", "confusion.png", "samples/best.png", "samples/worst.png"}
    assert "Scores on the validation images" in (out / "README.md").read_text()
    assert result.model is model
    assert not any(part.training for part in model.modules())
    loaded = segzoo.from_pretrained(out)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    again = segzoo.evaluate(loaded, data()[1])
    assert again.confusion.tolist() == result.scores.confusion.tolist()


def test_a_model_learns(tmp_path):
    result = train(tmp_path / "out", segzoo.Recipe(epochs=12, batch_size=4, learning_rate=0.03))
    assert result.scores.miou > 0.7
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]


def test_a_finished_training_says_so_and_is_not_touched(tmp_path):
    out = tmp_path / "out"
    first = train(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = train(out)
    assert (first.was_finished, again.was_finished) == (False, True)
    assert again.scores == first.scores
    assert again.history == first.history
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[name])


@pytest.mark.parametrize("first", ["float32", "bfloat16"])
def test_what_auto_chose_stays_for_the_whole_training(tmp_path, monkeypatch, first):
    """A measurement may come out otherwise the next time, or on another machine."""
    kept = {"float32": "bfloat16", "bfloat16": "float32"}
    out = tmp_path / "out"
    monkeypatch.setattr("segzoo.training.train.chosen", lambda *_: first)
    with pytest.raises(KeyboardInterrupt):
        train(out, on_epoch=interrupt)
    monkeypatch.setattr("segzoo.training.train.chosen", lambda *_: kept[first])
    assert train(out).epochs == 2
    assert state_of(out)["settled"]["precision"] == first
    assert train(out).was_finished
    with pytest.raises(TrainingError, match=f"precision was 'auto', is '{kept[first]}'"):
        train(out, replace(RECIPE, precision=kept[first]))


def interrupt(row):
    """Ctrl-C after an epoch."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": segzoo.Recipe(epochs=3, batch_size=4)}, r"recipe.epochs was 2, is 3"),
        (
            {"recipe": segzoo.Recipe(epochs=2, batch_size=2, dice=0.5)},
            r"recipe.batch_size was 4, is 2; recipe.dice was 1.0, is 0.5",
        ),
        ({"given": (Blobs(9), Blobs(3, seed=1))}, r"data.counts.train was 8, is 9"),
        ({"given": (Blobs(8, seed=5), Blobs(3, seed=1))}, r"data.fingerprint was"),
        ({"model": "names"}, r"model.class_names was None, is \['a', 'b', 'c'\]"),
    ],
)
def test_another_training_is_refused_by_name(tmp_path, changes, reason):
    out = tmp_path / "out"
    train(out)
    before = (out / "training" / "state.pt").read_bytes()
    if changes.get("model"):
        changes = {"model": toy_model(class_names=("a", "b", "c"))}
    with pytest.raises(TrainingError, match=reason):
        train(out, **changes)
    assert (out / "training" / "state.pt").read_bytes() == before


def test_another_number_of_processes_is_refused(tmp_path):
    out = tmp_path / "out"
    train(out)
    state = state_of(out)
    state["begun"]["processes"] = 2
    torch.save(state, out / "training" / "state.pt")
    with pytest.raises(TrainingError, match="processes was 2, is 1"):
        train(out)


def test_restart_begins_anew(tmp_path):
    out = tmp_path / "out"
    train(out)
    result = train(out, segzoo.Recipe(epochs=1, batch_size=4), restart=True)
    assert not result.was_finished
    assert result.epochs == 1
    assert len((out / "training" / "metrics.jsonl").read_text().splitlines()) == 1


def test_other_versions_are_told(tmp_path):
    out = tmp_path / "out"
    train(out)
    state = state_of(out)
    state["versions"]["torch"] = "1.0"
    torch.save(state, out / "training" / "state.pt")
    with pytest.warns(UserWarning, match="torch 1.0 ->"):
        train(out)


def test_a_folder_with_something_else_is_refused(tmp_path):
    model, other, file = tmp_path / "model", tmp_path / "other", tmp_path / "file"
    toy_model().save_pretrained(model)
    before = (model / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="holds a model, and no training"):
        train(model)
    with pytest.raises(TrainingError, match="holds a model, and no training"):
        train(model, restart=True)
    assert (model / "model.safetensors").read_bytes() == before
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match=r"is not empty \(it has notes.txt\)"):
        train(other)
    file.write_text("mine")
    with pytest.raises(StorageError, match="is a file"):
        train(file)


def test_a_folder_that_was_left_before_the_first_state_is_taken(tmp_path):
    inside = tmp_path / "out" / "training"
    inside.mkdir(parents=True)
    (inside / "recipe.json").write_text("{}")
    (tmp_path / "out" / ".DS_Store").write_text("")
    assert train(tmp_path / "out").epochs == 2


@pytest.mark.parametrize("content", [b"", b"nonsense", "pickle", "other format"])
def test_a_damaged_state_is_refused(tmp_path, content):
    path = tmp_path / "out" / "training" / "state.pt"
    path.parent.mkdir(parents=True)
    if content == "pickle":
        torch.save({"format": Path("x")}, path)  # no plain value
    elif content == "other format":
        torch.save({"format": 99}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(StorageError, match="restart") as caught:
        train(tmp_path / "out")
    assert "weights_only" not in str(caught.value)
    assert "Weights only" not in str(caught.value)


def test_a_state_of_a_version_that_knew_fewer_fields_goes_on(tmp_path):
    out = tmp_path / "out"
    train(out)
    state = state_of(out)
    for name in ("sharding", "sync_batch_norm"):
        del state["begun"]["recipe"][name]
    torch.save(state, out / "training" / "state.pt")
    assert train(out).was_finished
    del state["begun"]["recipe"]["epochs"]
    torch.save(state, out / "training" / "state.pt")
    with pytest.raises(TrainingError, match=r"recipe\.epochs was 30, is 2"):
        train(out)


@pytest.mark.parametrize(("pixels", "counts"), [(None, [3, 1]), (24, [2, 1, 1]), (1, [1] * 4)])
def test_large_pictures_are_judged_in_smaller_batches(pixels, counts):
    small = [(torch.zeros(3, 3, 4), torch.zeros(6, 8), str(i)) for i in range(3)]
    large = (torch.zeros(3, 30, 40), torch.zeros(30, 40), "large")
    found = list(batched([*small, large], pixels))
    assert (
        [len(images) for images, _, _ in found] == [len(masks) for _, masks, _ in found] == counts
    )
    assert [name for *_, names in found for name in names] == ["0", "1", "2", "large"]


def test_it_trains_in_another_thread(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(tmp_path / "out")))
    thread.start()
    thread.join()
    assert found[0].epochs == 2


def test_workers_change_nothing(tmp_path):
    recipe = segzoo.Recipe(epochs=1, batch_size=4, crop=(16, 16), scale=(0.5, 2.0), color=0.3)
    options = {"ignore_index": 255, "given": data(ignore_index=255)}
    train(tmp_path / "none", recipe, **options)
    train(tmp_path / "two", recipe, workers=2, **options)
    assert_same(tmp_path / "none", tmp_path / "two")


def test_saving_often_changes_nothing(tmp_path):
    train(tmp_path / "seldom")
    train(tmp_path / "often", save_seconds=0)
    assert_same(tmp_path / "seldom", tmp_path / "often")


@pytest.mark.parametrize(
    ("frozen", "found", "epochs", "best"),
    [
        (0, [0.3, 0.5, 0.4, 0.4, 0.9, 0.9], 4, 2),
        # A plateau of the head says nothing of the encoder, which has yet to begin.
        (4, [0.5, 0.4, 0.4, 0.4, 0.6, 0.4, 0.4, 0.9, 0.9, 0.9], 7, 5),
        (4, [0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.9, 0.9, 0.9, 0.9], 6, 1),
    ],
)
def test_patience_ends_a_training(tmp_path, monkeypatch, frozen, found, epochs, best):
    values = iter(found)
    real = Validator.__call__

    def judged(self, model, *, fully=False, **options):
        scores = real(self, model, fully=fully, **options)
        if fully:
            return scores
        monkeypatch.setattr(type(scores), "miou", property(lambda _: value))
        value = next(values)
        return scores

    monkeypatch.setattr(Validator, "__call__", judged)
    recipe = segzoo.Recipe(epochs=6, batch_size=4, patience=2, freeze_epochs=frozen)
    result = train(tmp_path / "out", recipe)
    assert (result.epochs, result.best_epoch) == (epochs, best)


def test_frozen_epochs_come_first_and_have_their_own_cycle(tmp_path):
    seen = []
    model = toy_model()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}

    def look(row):
        same = all(torch.equal(v, before[n]) for n, v in model.encoder.state_dict().items())
        seen.append((row["epoch"], same, row["lr"]))

    recipe = segzoo.Recipe(epochs=2, freeze_epochs=2, batch_size=4)
    train(tmp_path / "out", recipe, model=model, on_epoch=look)
    assert [(epoch, same) for epoch, same, _ in seen] == [
        (1, True),
        (2, True),
        (3, False),
        (4, False),
    ]
    assert seen[1][2] < 1e-5  # the end of the first cycle
    assert seen[3][2] < 1e-5
    assert model.encoder.frozen_stages == 0


def test_a_rate_that_is_found_is_kept(tmp_path):
    out = tmp_path / "out"
    recipe = segzoo.Recipe(epochs=1, batch_size="auto", learning_rate="find")
    train(out, recipe)
    found = json.loads((out / "training" / "learning_rate.json").read_text())
    settled = state_of(out)["settled"]
    assert settled["learning_rate"] == found["found"]
    assert settled["batch_size"] == 8
    assert train(out, recipe).was_finished


def test_balanced_weights_are_counted_and_kept(tmp_path):
    given = data(ignore_index=255)
    recipe = segzoo.Recipe(epochs=1, batch_size=4, class_weights="balanced")
    train(tmp_path / "out", recipe, given=given, ignore_index=255)
    counts = torch.zeros(3, dtype=torch.long)
    for _, mask in (given[0][i] for i in range(8)):
        counts += mask[mask != 255].bincount(minlength=3)
    expected = segzoo.losses.balanced_weights(counts.tolist())
    assert state_of(tmp_path / "out")["settled"]["class_weights"] == pytest.approx(expected)


def test_test_pictures_are_judged_at_the_end(tmp_path):
    given = segzoo.DataSplits.of(*data(), test=Blobs(2, seed=2), classes=3)
    result = train(tmp_path / "out", given=given)
    assert result.test.images == 2
    assert result.test == segzoo.evaluate(result.model, Blobs(2, seed=2), batch_size=4)
    metrics = json.loads((tmp_path / "out" / "training" / "metrics.json").read_text())
    assert metrics["test"]["miou"] == result.test.miou
    assert train(tmp_path / "out", given=given).test == result.test


def test_images_are_resized_and_scores_are_at_the_masks_size(tmp_path):
    result = train(tmp_path / "out", segzoo.Recipe(epochs=1, batch_size=4, size=(12, 16)))
    assert result.scores.pixels == 3 * 24 * 32
    again = segzoo.evaluate(result.model, data()[1], size=(12, 16), batch_size=4)
    assert again == result.scores


def test_one_logit_learns_two_classes(tmp_path):
    given = Blobs(8, classes=2), Blobs(3, seed=1, classes=2)
    recipe = segzoo.Recipe(epochs=6, batch_size=4, learning_rate=0.03)
    result = train(tmp_path / "out", recipe, model=toy_model(1), given=given)
    assert result.scores.classes == 2
    assert result.scores.miou > 0.7


@pytest.mark.parametrize(
    ("given", "options", "error", "reason"),
    [
        (
            lambda: segzoo.DataSplits.of(Blobs(4), Blobs(2), classes=3),
            {"model": 4},
            ArgumentError,
            "3 classes",
        ),
        (lambda: 5, {}, ArgumentError, "data must be"),
        (lambda: (Blobs(0), Blobs(2)), {}, DataError, "no items"),
        (lambda: (Blobs(4), Blobs(2)), {"workers": -1}, ArgumentError, "workers"),
        (lambda: (Blobs(4), Blobs(2)), {"device": "abacus"}, ArgumentError, "abacus"),
    ],
)
def test_what_cannot_be_trained(tmp_path, given, options, error, reason):
    options = dict(options)
    if "model" in options:
        options["model"] = toy_model(options["model"])
    with pytest.raises(error, match=reason):
        segzoo.train(
            options.pop("model", None) or toy_model(),
            given(),
            out=tmp_path / "out",
            recipe=RECIPE,
            **{"device": "cpu", **options},
        )
    assert not (tmp_path / "out").exists()


def test_a_model_that_could_not_be_loaded_again_is_refused_before_it_is_trained(tmp_path):
    model = toy_model()
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(StorageError, match="could not be loaded again"):
        train(tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()
