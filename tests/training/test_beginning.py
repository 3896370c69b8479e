"""A folder until a training has taken its first step there, and what is left of the one before."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, InputError, TrainingError
from segzoo.training.card import read_records, trained_size
from segzoo.training.learner import Learner
from segzoo.training.run import Run

from ..datasets.making import make_pairs, picture, save
from .toys import Blobs, toy_model
from .trainings import assert_same, data, state_of, train

ONE = segzoo.Recipe(epochs=1, batch_size=4)
SIZED = ONE.changed({"size": (16, 24)})


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)


class Sizes(Blobs):
    """Pictures of two sizes, which no batch can be made of."""

    def __getitem__(self, index, /):
        self.size = (24, 32) if index % 2 else (32, 24)
        return super().__getitem__(index)


class Unknown(Blobs):
    """Masks with a value that is no class."""

    def __getitem__(self, index, /):
        image, mask = super().__getitem__(index)
        mask[0] = 7
        return image, mask


class Infinite(Blobs):
    """Pictures of no numbers, once ``spared`` of them were asked for."""

    spared = 0

    def __getitem__(self, index, /):
        image, mask = super().__getitem__(index)
        self.spared -= 1
        return image.float() / 255 + (float("nan") if self.spared < 0 else 0), mask


def files_of(out):
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def too_large(*_, **__):
    raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Sizes, Unknown, Infinite])
def test_what_is_refused_at_the_first_step_leaves_the_training_before(tmp_path, kind, workers):
    out = tmp_path / "out"
    train(out)
    (out / "training" / "logs").mkdir()
    (out / "training" / "logs" / "curve").write_text("of the first")
    before = files_of(out)
    with pytest.raises((InputError, TrainingError)):
        train(out, ONE, given=(kind(8), Blobs(3)), restart=True, workers=workers)
    assert files_of(out) == before
    assert train(out).was_finished


def test_so_does_a_batch_that_is_too_large(tmp_path, monkeypatch):
    out = tmp_path / "out"
    train(out)
    before = files_of(out)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "loss_of", too_large)
        with pytest.raises(torch.OutOfMemoryError):
            train(out, ONE, restart=True)
    assert files_of(out) == before


def test_weights_for_other_classes_are_refused_before_anything_is_made(tmp_path):
    recipe = ONE.changed({"class_weights": (1.0, 2.0)})
    with pytest.raises(ArgumentError, match="has 2 weights, and there are 3 classes"):
        train(tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()
    two = (Blobs(4, classes=2), Blobs(2, classes=2))
    assert train(tmp_path / "out", recipe, model=toy_model(1), given=two).epochs == 1


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        ((Sizes(8), Blobs(3)), {"recipe": ONE.changed({"crop": (16, 16)})}),
        ((Infinite(8), Blobs(3)), {"given": data()}),
    ],
)
def test_a_call_that_was_mended_is_no_other_training(tmp_path, given, mended):
    with pytest.raises((InputError, TrainingError)):
        train(tmp_path / "out", ONE, given=given)
    assert train(tmp_path / "out", **{"recipe": ONE, "given": given, **mended}).epochs == 1


def test_after_the_first_step_there_is_a_state_that_goes_on_to_the_bit(tmp_path):
    given = segzoo.DataSplits.of(Infinite(8), Blobs(3), classes=3)
    given.train.spared = 4
    with pytest.raises(TrainingError, match=r"step 2 .*There is no model yet\."):
        train(tmp_path / "out", ONE, given=given)
    assert state_of(tmp_path / "out")["position"] == {"epoch": 0, "batch": 1, "step": 1}
    given.train.spared = 100
    train(tmp_path / "out", ONE, given=given)
    train(tmp_path / "whole", ONE, given=given)
    assert_same(tmp_path / "out", tmp_path / "whole")


def test_a_model_of_the_training_before_is_not_taken_for_that_of_this_one(tmp_path):
    out = tmp_path / "out"
    train(out)
    assert trained_size(out) is None
    given = segzoo.DataSplits.of(Infinite(8), Blobs(3), classes=3)
    given.train.spared = 4
    with pytest.raises(TrainingError, match=r"The model in .*out is of the training before\."):
        train(out, SIZED, given=given, restart=True)
    assert trained_size(out) is None
    assert read_records(out).recipe == {}
    given.train.spared = 100
    train(out, SIZED, given=given)
    assert trained_size(out) == (16, 24)


@pytest.mark.parametrize("rate", [0.01, "find"])
def test_what_another_training_found_goes_when_this_one_has_begun(tmp_path, rate):
    inside = tmp_path / "out" / "training"
    train(tmp_path / "out", ONE.changed({"learning_rate": "find"}))
    for name in ("report.html", "curves.png", "logs"):
        (inside / name).mkdir() if name == "logs" else (inside / name).write_text("old")
    train(tmp_path / "out", ONE.changed({"learning_rate": rate, "dice": 0.5}), restart=True)
    left = {path.name for path in inside.iterdir()}
    found = {"learning_rate.json", "learning_rate.png"} if rate == "find" else set()
    kept = {"recipe.json", "data.json", "metrics.json", "metrics.jsonl", "state.pt"}
    assert left == kept | found


def test_a_kill_beside_the_first_state_leaves_no_scores_of_another_training(tmp_path, monkeypatch):
    out = tmp_path / "out"
    train(out)
    other = ONE.changed({"dice": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_write_down", too_large)
        with pytest.raises(torch.OutOfMemoryError):
            train(out, other, restart=True)
    assert (out / "training" / "metrics.json").exists()

    def stop(row):
        assert not (out / "training" / "metrics.json").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(out, other, on_epoch=stop)


def interrupt(row):
    """Ctrl-C after an epoch."""
    raise KeyboardInterrupt


def test_a_copy_of_the_data_is_the_same_data(tmp_path):
    images, masks = make_pairs(tmp_path / "here")
    recipe = ONE.changed({"epochs": 2})
    with pytest.raises(KeyboardInterrupt):
        train(
            tmp_path / "out",
            recipe,
            given=segzoo.open_data(images, masks, classes=3),
            on_epoch=interrupt,
        )
    (tmp_path / "here").rename(tmp_path / "there")
    folders = [tmp_path / "there" / name for name in ("images", "masks")]
    (folders[0] / "notes.txt").write_text("left out")
    moved = segzoo.open_data(*folders, classes=3)
    assert train(tmp_path / "out", recipe, given=moved).epochs == 2
    assert str(folders[0]) in (tmp_path / "out" / "training" / "data.json").read_text()
    save(next(folders[0].glob("*.png")), picture(99))
    changed = segzoo.open_data(*folders, classes=3)
    with pytest.raises(TrainingError, match=r"training: data\.fingerprint was [^;]*\. Start"):
        train(tmp_path / "out", recipe, given=changed)
