"""What trackers of others are told: by the first process, each row before it is saved."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import segzoo
from segzoo.errors import ArgumentError, MissingPackageError, TrainingError
from segzoo.training import tracking

from .trainings import RECIPE, data, train


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)


class Fake:
    """Keeps what it is told."""

    def __init__(self):
        self.settings, self.rows, self.finished = {}, [], 0

    def store_init_configuration(self, values):
        self.settings.update(values)

    def log(self, values, step=None):
        self.rows.append((step, values))

    def finish(self):
        self.finished += 1


def test_a_tracker_is_told_recipe_and_rows(tmp_path):
    fake, other = Fake(), Fake()
    result = train(tmp_path / "out", log_with=[fake, other])
    assert fake.rows == other.rows
    assert [step for step, _ in fake.rows] == [row["step"] for row in result.history]
    for (_, told), row in zip(fake.rows, result.history, strict=True):
        assert told["val/miou"] == row["val"]["miou"]
        assert (told["loss"], told["lr"], told["epoch"]) == (row["loss"], row["lr"], row["epoch"])
        assert told["val/iou/1"] == row["val"]["iou"][1]
        assert all(isinstance(value, (int, float)) for value in told.values())
    assert fake.settings["recipe/epochs"] == RECIPE.epochs
    assert fake.settings["model/architecture"] == "unet"
    assert all(isinstance(value, (bool, int, float, str)) for value in fake.settings.values())
    assert fake.finished == 1
    again = Fake()
    assert train(tmp_path / "out", log_with=again).was_finished
    assert not again.rows


class StopsError(Exception):
    """Raised in the middle of a training."""


def test_a_training_that_is_stopped_ends_its_runs_and_repeats_no_row(tmp_path):
    def stop(row):
        raise StopsError

    first, second = Fake(), Fake()
    with pytest.raises(StopsError):
        train(tmp_path / "out", log_with=first, on_epoch=stop)
    assert (len(first.rows), first.finished) == (1, 1)
    train(tmp_path / "out", log_with=second)
    assert [values["epoch"] for _, values in second.rows] == [2]


def test_a_tracker_that_fails_does_not_stop_a_training(tmp_path):
    class Broken(Fake):
        def log(self, values, step=None):
            raise ConnectionError("no network")

        def finish(self):
            ended.append(self)
            raise ConnectionError("still none")

    ended = []
    fake = Fake()
    with pytest.warns(UserWarning, match="Broken failed and is told nothing more: no network"):
        train(tmp_path / "out", log_with=(Broken(), fake))
    assert len(fake.rows) == RECIPE.epochs
    assert len(ended) == 1


def test_classes_are_told_by_name(tmp_path):
    fake = Fake()
    names = ("sky", "road", "car")
    splits = segzoo.DataSplits.of(*data(), classes=names)
    train(tmp_path / "out", given=splits, log_with=fake)
    assert "val/iou/road" in fake.rows[0][1]


@pytest.fixture
def known(monkeypatch):
    """accelerate with a tracker that needs no package, and one whose package is missing."""
    pytest.importorskip("accelerate")
    from accelerate import tracking as theirs

    made = []

    class Here(Fake, theirs.GeneralTracker):
        name, requires_logging_directory, tracker = "here", True, None

        def __init__(self, run_name, logging_dir):
            Fake.__init__(self)
            self.run_name, self.logging_dir = run_name, logging_dir
            made.append(self)

        @theirs.on_main_process
        def start(self):
            self.started = True

    class Gone(Here):
        name, requires_logging_directory = "not_there", False

        def __init__(self, run_name):
            Here.__init__(self, run_name, None)

        def start(self):
            raise ModuleNotFoundError("No module named 'not_there'")

    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "here", Here)
    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "not_there", Gone)
    return made


@pytest.fixture
def no_state():
    """accelerate as it is in a new program, whatever other tests made of it."""
    from accelerate import PartialState

    shared = vars(PartialState(cpu=True))
    before = dict(shared)
    shared.clear()
    yield
    shared.clear()
    shared.update(before)


@pytest.mark.usefixtures("no_state")
def test_names_are_accelerate_s_which_leaves_nothing_behind(tmp_path, known):
    from accelerate import PartialState

    there = object.__new__(PartialState)
    assert not there.initialized
    train(tmp_path / "out", log_with="here")
    (tracker,) = known
    assert tracker.started
    assert tracker.run_name == "out"
    assert Path(tracker.logging_dir) == tmp_path / "out" / "training" / "logs"
    assert len(tracker.rows) == RECIPE.epochs
    assert not there.initialized  # an Accelerator made later is not held to the CPU


@pytest.mark.usefixtures("no_state")
def test_a_state_of_accelerate_that_was_there_stays(tmp_path, known):
    from accelerate import PartialState

    state = PartialState(cpu=True)
    train(tmp_path / "out", log_with="here")
    assert state.initialized


def test_a_tracker_that_cannot_begin_is_told_and_the_others_end(tmp_path):
    class Offline(Fake):
        def store_init_configuration(self, values):
            raise ConnectionError("no network")

    first = Fake()
    with pytest.raises(TrainingError, match=r"tracker Offline could not begin.*no network"):
        train(tmp_path / "out", log_with=[first, Offline()])
    assert first.finished == 1


@pytest.mark.usefixtures("no_state")
def test_what_was_begun_is_ended_when_somebody_gives_up(tmp_path, known):
    from accelerate import PartialState

    class Asks(Fake):
        def store_init_configuration(self, values):
            raise KeyboardInterrupt  # at a prompt for a password

    first = Fake()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "out", log_with=[first, "here", Asks()])
    assert first.finished == known[0].finished == 1
    assert not object.__new__(PartialState).initialized


def test_an_object_of_accelerate_is_begun(tmp_path, known):
    from accelerate import tracking as theirs

    given = theirs.LOGGER_TYPE_TO_CLASS["here"]("mine", tmp_path / "logs")
    train(tmp_path / "out", log_with=given)
    assert given.started
    assert len(given.rows) == RECIPE.epochs


def test_a_restart_begins_new_curves(tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("accelerate")
    for _ in range(2):
        train(tmp_path / "out", log_with="tensorboard", restart=True)
    assert len(list((tmp_path / "out" / "training" / "logs" / "out").glob("events.*"))) == 1


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("tensorbord", ArgumentError, "Did you mean tensorboard?"),
        ("not_there", MissingPackageError, "not-there is needed for this and not installed: pip"),
        (3, ArgumentError, "store_init_configuration, log and finish"),
        (Fake, ArgumentError, "got type"),
        (["here", object()], ArgumentError, "got object"),
    ],
)
def test_what_is_no_tracker_is_told(tmp_path, given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        train(tmp_path / "out", log_with=given)
    assert not (tmp_path / "out").exists()


def test_without_accelerate_names_cannot_be_had(tmp_path, monkeypatch):
    modules: dict[str, ModuleType | None] = sys.modules
    monkeypatch.setitem(modules, "accelerate", None)
    monkeypatch.setitem(modules, "accelerate.tracking", None)
    with pytest.raises(MissingPackageError, match=r"segzoo\[train\]"):
        tracking.Tracking(["tensorboard"], tmp_path / "a" / "training" / "logs", {})


def test_tensorboard_writes_into_the_folder_of_the_training(tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("accelerate")
    train(tmp_path / "out", log_with="tensorboard")
    assert list((tmp_path / "out" / "training" / "logs" / "out").glob("events.*"))


def test_curves_of_another_training_go_with_the_first_row_of_a_new_one(tmp_path):
    class Writes(Fake):
        def __init__(self):
            super().__init__()
            place.mkdir(parents=True, exist_ok=True)
            self.path = place / f"{len(list(place.iterdir()))}.log"

        def store_init_configuration(self, values):
            place.mkdir(exist_ok=True)
            self.path.write_text("begun")

    def stop(row):
        raise StopsError

    def refuse(*_, **__):
        raise StopsError

    def left():
        return sorted(path.name for path in place.parent.glob("*logs*/*"))

    place = tmp_path / "out" / "training" / "logs"
    train(tmp_path / "out", log_with=Writes())
    assert left() == ["0.log"]
    other = RECIPE.changed({"dice": 0.5})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segzoo.training.learner.Learner.loss_of", refuse)
        with pytest.raises(StopsError):
            train(tmp_path / "out", other, restart=True, log_with=Writes())
    assert left() == ["0.log"]
    place.rename(place.parent / ".logs-before")  # as a call that was killed leaves them
    with pytest.raises(StopsError):
        train(tmp_path / "out", other, restart=True, log_with=Writes(), on_epoch=stop)
    assert left() == ["0.log"]
    train(tmp_path / "out", other, log_with=Writes())
    assert left() == ["0.log", "1.log"]
    train(tmp_path / "out", RECIPE, restart=True)  # of nobody there are no curves
    assert left() == []
