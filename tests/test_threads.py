"""Threads without helpers: they alone, whenever they are made."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from segzoo.threads import compute_alone, helpers

pytestmark = pytest.mark.skipif(
    "parallel backend: OpenMP" not in torch.__config__.parallel_info(),
    reason="all threads share torch's own here",
)


def number():
    """How many threads compute what the calling thread computes."""
    torch.ones(1 << 17).add_(1)  # long enough to be shared out
    return torch.get_num_threads()


@pytest.fixture(autouse=True)
def of_three():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_they_compute_alone_and_others_do_not():
    with ThreadPoolExecutor(1) as earlier, helpers(4, "h") as alone:
        assert earlier.submit(number).result() == 3
        together = threading.Barrier(4)
        assert {*alone.map(lambda _: (together.wait(), number())[1], range(4))} == {1}
        with ThreadPoolExecutor(1) as later:
            assert later.submit(number).result() == 3
        assert earlier.submit(number).result() == number() == 3
        assert (
            len({thread.name for thread in threading.enumerate() if thread.name[:2] == "h_"}) == 4
        )


def test_a_number_that_is_set_later_is_not_theirs():
    with helpers(1, "h") as alone:
        torch.set_num_threads(2)
        assert alone.submit(number).result() == 1
        assert number() == 2


def test_a_thread_that_begins_meanwhile_has_all(monkeypatch):
    """Many at once: what each sets for a moment is taken for nobody's."""
    with ThreadPoolExecutor(8) as pool:
        together = threading.Barrier(8)
        assert {*pool.map(lambda _: (together.wait(), compute_alone(), number())[2], range(8))} == {
            1
        }
    with ThreadPoolExecutor(1) as later:
        assert later.submit(number).result() == number() == 3


def test_threads_that_all_share_stay_as_many(monkeypatch):
    """Of torch's own thread pool there is one number for all, and it could not be set back."""
    told = "ATen parallel backend: native thread pool"
    monkeypatch.setattr(torch.__config__, "parallel_info", lambda: told)
    with helpers(1, "h") as alone:
        assert alone.submit(number).result() == 3


class NoMore(threading.Thread):
    """As where the system allows no more than so many."""

    left = 0

    def start(self):
        if type(self).left == 0:
            raise RuntimeError("can't start new thread")
        type(self).left -= 1
        super().start()


def test_a_system_without_threads_left_is_told_and_nobody_waits(monkeypatch):
    monkeypatch.setattr(threading, "Thread", NoMore)
    compute_alone()
    assert number() == 3  # as before
    monkeypatch.setattr(NoMore, "left", 3)  # one of two, with one that sets the number again
    with pytest.raises(RuntimeError, match="can't start new thread"):
        helpers(4, "h")
    assert not [thread for thread in threading.enumerate() if thread.name[:2] == "h_"]
