"""A training that something stops: losses that are no numbers, full disks, signals."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.errors import StorageError, TrainingError
from segzoo.training.loop import Loop

from .. import forking
from .toys import Blobs
from .trainings import assert_same, state_of, train


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """No test here looks at one, and drawing takes longer than the training."""
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)


class Broken(Blobs):
    """One image is not a number everywhere."""

    def __getitem__(self, index):
        image, mask = super().__getitem__(index)
        image = image.float() / 255
        if index == 5:
            image[0, 2, 3] = float("nan")
        return image, mask


def test_a_loss_that_is_not_finite_names_its_batch_and_keeps_the_model(tmp_path):
    out = tmp_path / "out"
    broken = Broken(8)
    with pytest.raises(TrainingError, match=r"batch of .*blob5.*There is no model yet") as caught:
        train(out, given=(broken, Blobs(3, seed=1)))
    assert caught.value.args[0].count("blob") == 4
    assert not (out / "model.safetensors").exists()


class BrokenLater(Blobs):
    """An image that is in order for a while."""

    def __init__(self, count):
        super().__init__(count)
        self.asked = 0

    def __getitem__(self, index):
        image, mask = super().__getitem__(index)
        self.asked += 1
        value = float("inf") if self.asked > 8 else 1.0
        return image.float() / 255 * value, mask


def test_the_last_good_model_stays(tmp_path):
    out = tmp_path / "out"
    given = segzoo.DataSplits.of(BrokenLater(8), Blobs(3, seed=1), classes=3)
    given.train.asked = 0  # opening looks at some
    with pytest.raises(TrainingError, match=r"epoch 2.*The model of epoch 1 is in"):
        train(out, given=given)
    model = segzoo.from_pretrained(out)
    assert all(item.isfinite().all() for item in model.state_dict().values())
    state = state_of(out)
    assert state["position"]["epoch"] == 1
    assert all(item.isfinite().all() for item in state["model"].values())


@pytest.mark.skipif(sys.platform != "linux", reason="limits files as Linux does")
def test_a_full_disk_leaves_the_state_before_and_the_training_goes_on(tmp_path):
    out, told = tmp_path / "out", tmp_path / "told"
    process = forking.context().Process(target=without_room, args=(str(out), str(told)))
    process.start()
    process.join()
    assert "could not be written" in told.read_text()
    assert "The state before it still stands" in told.read_text()
    assert state_of(out)["position"] == {"epoch": 0, "batch": 0, "step": 0}
    assert [path.name for path in (out / "training").glob(".*")] == []
    train(out)
    train(tmp_path / "whole")
    assert_same(out, tmp_path / "whole")


def without_room(out, told):
    """A training for whose second state the disk has no room, in a process of its own."""
    import resource

    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    saved = Loop.save

    def save(self):
        if self.done.position.epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
        saved(self)

    Loop.save = save
    try:
        train(out)
    except StorageError as error:
        Path(told).write_text(str(error))


class Signalling(Blobs):
    """Sends a signal to its own program when an image is asked for the nth time."""

    number, after = signal.SIGTERM, 0

    def __getitem__(self, index):
        self.after -= 1
        if self.after == 0:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


@pytest.mark.parametrize("after", [3, 9, 14])
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_saves_and_stops_and_the_same_call_goes_on(tmp_path, number, error, after):
    out = tmp_path / "out"
    handlers = [signal.getsignal(item) for item in (signal.SIGTERM, signal.SIGINT)]
    given = segzoo.DataSplits.of(Signalling(8), Blobs(3, seed=1), classes=3)
    given.train.number, given.train.after = number, after
    with pytest.raises(error) as caught:
        train(out, given=given)
    if error is SystemExit:
        assert caught.value.code == 143
    assert [signal.getsignal(item) for item in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert state_of(out)["position"]["step"] > 0
    given.train.after = 0
    train(out, given=given)
    train(tmp_path / "whole")
    assert_same(out, tmp_path / "whole")


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    class Impatient(Blobs):
        armed = False

        def __getitem__(self, index):
            if index == 2 and self.armed:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    given = segzoo.DataSplits.of(Impatient(8), Blobs(3, seed=1), classes=3)
    given.train.armed = True
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "out", given=given)
    # Nothing was saved on the way out.
    assert state_of(tmp_path / "out")["position"] == {"epoch": 0, "batch": 0, "step": 0}
