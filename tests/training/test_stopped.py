"""A training that something stops: losses that are no numbers, full disks, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import segzoo
from segzoo.errors import StorageError, TrainingError
from segzoo.training.evaluate import as_counted
from segzoo.training.loop import Loop, Progress
from segzoo.training.processes import Processes
from segzoo.training.state import Position
from segzoo.training.stopping import StopRequests
from segzoo.training.validate import Validator

from .. import forking
from .toys import Blobs, toy_model
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
    assert state_of(out)["position"] == {"epoch": 0, "batch": 1, "step": 1}
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
    # It came in the second step, and nothing was saved on the way out.
    assert state_of(tmp_path / "out")["position"] == {"epoch": 0, "batch": 1, "step": 1}


@pytest.mark.parametrize(("workers", "features"), [(0, True), (2, False)])
def test_a_signal_is_not_kept_waiting_until_all_is_scored(tmp_path, monkeypatch, workers, features):
    """It comes while the second of three batches is scored; the epoch is then scored anew."""
    recipe = segzoo.Recipe(epochs=2, batch_size=1, ema=0.9, keep_features=features)
    seen = []

    def scored(*arguments):
        seen.append(1)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return as_counted(*arguments)

    def model():
        return toy_model().freeze_encoder() if features else toy_model()

    monkeypatch.setattr("segzoo.training.validate.as_counted", scored)
    with pytest.raises(SystemExit):
        train(tmp_path / "out", recipe, model=model(), workers=workers)
    assert len(seen) == 2
    state = state_of(tmp_path / "out")
    assert state["position"] == {"epoch": 0, "batch": 8, "step": 8}
    assert state["history"] == []
    train(tmp_path / "out", recipe, model=model(), workers=workers)
    train(tmp_path / "whole", recipe, model=model(), workers=workers)
    assert_same(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize(("images", "rounds"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_processes_come_between_two_batches_equally_often(images, rounds):
    for index in range(2):
        shared = Processes("cpu")
        shared.count, shared.index = 2, index
        validator = Validator(
            Blobs(images),
            shared,
            classes=3,
            class_names=None,
            ignore_index=None,
            size=None,
            batch_size=2,
            workers=0,
            precision="float32",
            channels_last=False,
        )
        shared.count = 1  # nobody is there to be waited for
        asked = []
        found = validator.measure(toy_model(), between=lambda asked=asked: asked.append(1))
        assert len(asked) == rounds
        assert len(found) == len(range(index, images, 2))


@pytest.mark.parametrize(("count", "looks"), [(1, True), (2, False)])
def test_one_gpu_stops_after_the_step(count, looks):
    """Several look together, every few steps; a GPU works ahead, so that no loss is looked at."""
    requests = StopRequests()
    requests.received = signal.SIGTERM
    loop = SimpleNamespace(
        learner=SimpleNamespace(device=torch.device("cuda")),
        processes=SimpleNamespace(count=count, first=True, largest=lambda value: value),
        done=Progress(),
        bar=SimpleNamespace(disable=True),
        save=lambda: None,
        save_seconds=1e9,
        _stored=True,
        _watched=[(Position(), torch.tensor(1.0))],
        _saved_at=0.0,
    )
    if looks:
        with pytest.raises(SystemExit):
            Loop._look(loop, requests)
    else:
        Loop._look(loop, requests)
    assert (loop._watched == []) is looks


KEPT = """
import signal, sys
import segzoo
from tests.training.toys import Blobs, toy_model

try:
    segzoo.train(toy_model(), (Blobs(8), Blobs(3)), out=sys.argv[1], device="cpu", workers=2,
                 recipe=segzoo.Recipe(batch_size=4), on_epoch=lambda row: signal.raise_signal(signal.SIGTERM))
except SystemExit as error:
    kept = error
print("the end")
"""


def test_a_program_that_keeps_the_error_ends_in_spite_of_workers(tmp_path):
    """They take no signal of others while there is work, and one of the program that ends."""
    done = subprocess.run(
        [sys.executable, "-c", KEPT, str(tmp_path / "out")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "the end\n"), done.stderr
    assert "Traceback" not in done.stderr
