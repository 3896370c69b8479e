"""Worker processes: killed ones are replaced, nothing is lost, and none outlives its pool."""

import multiprocessing
import os
import signal
import time
from collections import Counter

import pytest

from segzoo.errors import SegzooError
from segzoo.folders import pool as pool_module
from segzoo.folders.jobs import Failure
from segzoo.folders.pool import WorkerPool

from .. import forking
from .toys import Toy, jobs

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs forkserver"
)


@pytest.fixture(autouse=True)
def quick_start(monkeypatch):
    forking.context()
    monkeypatch.setattr(pool_module, "METHOD", "forkserver")


def alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def soon(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_nothing_is_lost_when_workers_are_killed(tmp_path):
    names = [f"{i}.png" for i in range(40)]
    names[3], names[17], names[30] = "kill-once-a.png", "kill-always.png", "kill-once-b.png"
    names[5] = "bad.png"
    found = []
    WorkerPool(Toy(tmp_path), 2, held=5).run(iter(jobs(names)), found.append)
    assert sorted(str(item.image) for item in found) == sorted(names)
    failed = {str(item.image): item.error for item in found if isinstance(item, Failure)}
    assert set(failed) == {"bad.png", "kill-always.png"}
    assert "3 workers ended with it (signal 9)" in failed["kill-always.png"]
    # One for each end (1 + 1 + 3). Those in their places may come when all is done: both, where the
    # third end with kill-always is the last that happens.
    assert len(list(tmp_path.glob("begun-*"))) in (5, 5 + 1, 5 + 2)


def test_a_worker_that_lost_its_gpu_is_replaced(tmp_path, capfd):
    names = [f"{i}.png" for i in range(20)]
    names[4], names[11] = "lose-once-a.png", "lose-once-b.png"
    found = []
    WorkerPool(Toy(tmp_path), 2, held=3).run(iter(jobs(names)), found.append)
    assert sorted(str(item.image) for item in found) == sorted(names)
    assert not any(isinstance(item, Failure) for item in found)
    assert "Traceback" not in capfd.readouterr().err


def test_workers_that_are_killed_from_outside(tmp_path):
    names = [f"{i}.png" for i in range(60)]
    pool, found = WorkerPool(Toy(tmp_path, seconds=0.005), 2), []

    def done(outcome):
        found.append(outcome)
        if len(found) in (5, 20, 33):
            os.kill(pool.numbers[len(found) % 2], signal.SIGKILL)

    pool.run(jobs(names), done)
    assert sorted(str(item.image) for item in found) == sorted(names)
    assert not any(isinstance(item, Failure) for item in found)


def test_what_is_done_is_told_when_it_is_stopped(tmp_path):
    names = [f"{i}.png" for i in range(200)]
    pool, found, numbers = WorkerPool(Toy(tmp_path, seconds=0.005), 2), [], []

    def done(outcome):
        found.append(outcome)
        if len(found) == 7:
            numbers.extend(pool.numbers)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run(jobs(names), done)
    assert 7 <= len(found) < 200
    # All that a worker said it had done; it may be ended between doing and saying.
    written = {path.name.removeprefix("done-") for path in tmp_path.glob("done-*")}
    told = {str(item.image) for item in found}
    assert told <= written
    assert len(written - told) <= 2
    assert not any(alive(number) for number in numbers)


@pytest.mark.parametrize(
    ("begins", "message"),
    [("failing", "there is no model"), ("killed", r"before they begin \(signal 9\)")],
)
def test_workers_that_cannot_begin(tmp_path, begins, message):
    with pytest.raises(SegzooError, match=message):
        WorkerPool(Toy(tmp_path, begins), 2).run(jobs(["a.png"]), print)


def test_a_warning_of_all_workers_is_one(tmp_path):
    with pytest.warns(UserWarning, match="a wish that cannot be had") as found:
        WorkerPool(Toy(tmp_path, "warning"), 2).run(jobs(["a.png", "b.png"]), id)
    assert len(found) == 1


def test_more_is_held_than_a_pipe_takes(tmp_path):
    """Neither side waits for the other to read."""
    names = [f"{'long' * 50}{index}.png" for index in range(4000)]
    found = []
    WorkerPool(Toy(tmp_path, writes=False), 1, held=4000).run(jobs(names), found.append)
    assert len(found) == 4000


def test_few_jobs_are_shared_out_evenly(tmp_path):
    WorkerPool(Toy(tmp_path), 2, held=8).run(jobs(["a.png", "b.png", "c.png", "d.png"]), id)
    processes = Counter(path.read_text() for path in tmp_path.glob("done-*"))
    assert sorted(processes.values()) == [2, 2]


def test_no_jobs_need_no_workers(tmp_path):
    WorkerPool(Toy(tmp_path), 2).run([], print)
    assert not list(tmp_path.iterdir())


def test_a_picture_with_two_targets(tmp_path):
    found = []
    WorkerPool(Toy(tmp_path), 1).run(jobs(["a.png", "b.png", "a.png"]), found.append)
    assert sorted(str(item.image) for item in found) == ["a.png", "a.png", "b.png"]


def endless(notes):
    pool_module.METHOD = "fork"
    names = (f"{i}.png" for i in range(1 << 30))
    WorkerPool(Toy(notes, seconds=0.01), 2).run((jobs([name])[0] for name in names), id)


def test_workers_end_with_a_killed_parent(tmp_path):
    parent = forking.context().Process(target=endless, args=(tmp_path,))
    parent.start()
    assert soon(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    numbers = [int(path.name.removeprefix("begun-")) for path in tmp_path.glob("begun-*")]
    assert all(alive(number) for number in numbers)
    parent.kill()
    parent.join()
    assert soon(lambda: not any(alive(number) for number in numbers))
