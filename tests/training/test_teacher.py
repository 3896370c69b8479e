"""A teacher: its answers are learned beside the labels, and it is part of what a training is."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, InputError, StorageError, TrainingError
from segzoo.losses import distillation_loss

from .toys import toy_model
from .trainings import assert_same, data, state_of, train

RECIPE = segzoo.Recipe(epochs=2, batch_size=4, temperature=3.0, precision="float32")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model that knows the three classes: each is a brightness of its own."""
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)
        recipe = segzoo.Recipe(epochs=12, batch_size=4, learning_rate=0.03)
        train(folder / "model", recipe)
    return folder / "model"


@pytest.mark.parametrize("classes", [1, 3])
def test_the_loss_is_the_divergence_at_a_temperature_of_what_is_not_void(classes):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 5, 6).double().requires_grad_()
    taught = torch.randn(2, classes, 5, 6).double()
    target = torch.randint(0, 2, (2, 5, 6))
    target[0, :3] = 255
    loss = distillation_loss(logits, taught, target, temperature=2.5, ignore_index=255)
    if classes == 1:
        p, q = torch.sigmoid(taught[:, 0] / 2.5), torch.sigmoid(logits[:, 0] / 2.5)
        each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    else:
        p, q = (taught / 2.5).softmax(1), (logits / 2.5).softmax(1)
        each = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(loss, 2.5**2 * each[target != 255].mean(), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[0, :, :3].any()
    assert float(distillation_loss(taught, taught, target, ignore_index=255)) == pytest.approx(
        0, abs=1e-12
    )
    void = torch.full_like(target, 255)
    assert distillation_loss(logits, taught, void, ignore_index=255).item() == 0


def test_over_ranks_it_is_the_loss_of_all_pixels():
    logits, taught = torch.randn(4, 3, 5, 6), torch.randn(4, 3, 5, 6)
    target = torch.randint(0, 3, (4, 5, 6))
    target[0] = 255
    parts, sums = (slice(0, 1), slice(1, 4)), []
    for part in parts:
        distillation_loss(logits[part], taught[part], target[part], ignore_index=255, reduce=lambda x: sums.append(x) or x)  # fmt: skip
    whole = distillation_loss(logits, taught, target, ignore_index=255)
    for part in parts:
        found = distillation_loss(logits[part], taught[part], target[part], ignore_index=255, reduce=lambda _: sum(sums))  # fmt: skip
        torch.testing.assert_close(found, whole)


def test_shapes_and_temperatures_that_cannot_be():
    logits, target = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(InputError, match="need a teacher's of the same shape, got"):
        distillation_loss(logits, logits[:, :2], target)
    with pytest.raises(ArgumentError, match="temperature must be between"):
        distillation_loss(logits, logits, target, temperature=0)


def test_a_step_learns_from_labels_and_teacher(teacher, tmp_path):
    """The first loss of a training, with the same augmentation, is the sum of both."""
    with_teacher = RECIPE.changed({"teacher": str(teacher), "epochs": 1})
    losses = {}
    for weight in (0.0, 1.0):
        recipe = with_teacher.changed({"distillation": weight, "batch_size": 8})
        losses[weight] = train(tmp_path / str(weight), recipe).history[0]["loss"]
    assert losses[1.0] > losses[0.0]


def test_without_labels_it_is_still_taught(teacher, tmp_path):
    """All labels but one pixel are wrong, and count next to nothing."""

    class Wrong:
        names = data()[0].names

        def __len__(self):
            return 8

        def __getitem__(self, index):
            image, mask = data()[0][index]
            return image, torch.full_like(mask, 2)

    recipe = segzoo.Recipe(
        epochs=12,
        batch_size=4,
        learning_rate=0.03,
        cross_entropy=1e-6,
        dice=0.0,
        teacher=str(teacher),
    )
    result = train(tmp_path / "out", recipe, given=(Wrong(), data()[1]))
    # The labels would have it at 0.12; over seeds it is 0.50 to 0.63.
    assert result.scores.miou > 0.35


def test_the_teacher_stands_still_and_is_part_of_the_training(teacher, tmp_path):
    recipe = RECIPE.changed({"teacher": str(teacher)})
    before = segzoo.from_pretrained(teacher).state_dict()

    def stop(row):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(tmp_path / "out", recipe, on_epoch=stop)
    train(tmp_path / "out", recipe)
    train(tmp_path / "whole", recipe)
    assert_same(tmp_path / "out", tmp_path / "whole")
    for name, value in segzoo.from_pretrained(teacher).state_dict().items():
        assert torch.equal(value, before[name])
    assert state_of(tmp_path / "out")["begun"]["recipe"]["teacher"] == str(teacher)
    shutil.copytree(teacher, tmp_path / "teacher")
    recipe = RECIPE.changed({"teacher": str(tmp_path / "teacher")})
    train(tmp_path / "again", recipe)
    toy_model().save_pretrained(tmp_path / "teacher")  # another one in the same place
    with pytest.raises(TrainingError, match=r"training: teacher was '\w+', is '\w+'"):
        train(tmp_path / "again", recipe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 4}, r"has 4 classes, the model 3: it can only be taught"),
        ({"in_channels": 4}, "has 4 bands, the model 3"),
        ({"class_names": ("a", "b", "c")}, "has the classes a, b, c, the model d, e, f"),
    ],
)
def test_a_teacher_of_something_else_is_refused(arguments, message, tmp_path):
    toy_model(**arguments).save_pretrained(tmp_path / "teacher")
    recipe = RECIPE.changed({"teacher": str(tmp_path / "teacher")})
    with pytest.raises(ArgumentError, match=message):
        train(tmp_path / "out", recipe, model=toy_model(class_names=("d", "e", "f")))
    with pytest.raises(StorageError, match="no folder"):
        train(tmp_path / "out", recipe.changed({"teacher": "nowhere at all"}))
    assert not (tmp_path / "out").exists()


def test_a_rate_is_found_with_the_teacher(teacher, tmp_path):
    """The first loss of the search is that of labels and teacher, as the first of the training."""
    losses = {}
    for weight in (0.0, 1.0):
        recipe = RECIPE.changed(
            {
                "teacher": str(teacher),
                "distillation": weight,
                "learning_rate": "find",
                "epochs": 1,
                "batch_size": 8,
            }
        )
        train(tmp_path / str(weight), recipe)
        found = json.loads((tmp_path / str(weight) / "training/learning_rate.json").read_text())
        losses[weight] = found["curve"][0][1]
    assert losses[1.0] > losses[0.0]


def test_a_teacher_may_lie_elsewhere_when_a_training_goes_on(teacher, tmp_path):
    train(tmp_path / "out", RECIPE.changed({"teacher": str(teacher)}))
    shutil.copytree(teacher, tmp_path / "moved")
    moved = RECIPE.changed({"teacher": str(tmp_path / "moved")})
    assert train(tmp_path / "out", moved).was_finished
    with pytest.raises(TrainingError, match=r"training: teacher was '\w+', is None\. Start"):
        train(tmp_path / "out", RECIPE)
