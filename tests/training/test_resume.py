"""A training that was killed goes on, and ends with the bits of one that never was."""

from __future__ import annotations

import os
import random
import signal

import pytest
import torch

from segzoo.training import validate
from segzoo.training.evaluate import as_counted
from segzoo.training.processes import cpus_share

from .. import forking
from . import killing


@pytest.mark.parametrize(
    ("workers", "ranks", "longest", "kills", "more"),
    [
        (0, 1, 0.6, 3, {}),
        (2, 1, 0.8, 3, {}),
        (0, 2, 2.5, 1, {"sharding": "full"}),
    ],
    ids=["alone", "two workers", "two ranks, each with a part"],
)
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path, workers, ranks, longest, kills, more):
    if "sharding" in more and not cpus_share():
        pytest.skip(f"the FSDP of torch {torch.__version__} works on GPUs only")
    whole = tmp_path / "whole"
    killing.finish(killing.start(whole, workers, ranks, **more))
    chance = random.Random(workers + 10 * ranks)
    for attempt in range(3):  # on a fast machine all may be over before the first kill
        out = tmp_path / f"killed{attempt}"
        done = killing.killed_often(out, workers, ranks, kills, chance, longest, **more)
        assert killing.same(whole, out)
        if done == kills:
            return
        longest /= 4
    pytest.fail("the training was never killed")


def told_while_judging(out, rank, port):
    """One of two processes, of which the second gets a signal while it scores its second batch."""
    seen = []

    def scored(*arguments):
        seen.append(1)
        if len(seen) == 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return as_counted(*arguments)

    validate.as_counted = scored
    killing.run(out, 0, "cpu", rank, 2, port, {"batch_size": 1})


def test_told_while_they_judge_all_processes_stop_and_go_on_to_the_bit(tmp_path):
    out, port, made = tmp_path / "out", forking.free_port(), forking.context()
    told = [
        made.Process(target=told_while_judging, args=(str(out), rank, port)) for rank in range(2)
    ]
    for process in told:
        process.start()
    for process in told:
        process.join(100)
    assert [process.exitcode for process in told] == [143, 143]
    state = torch.load(out / "training" / "state.pt", weights_only=True)
    assert (state["position"]["epoch"], len(state["history"])) == (0, 0)
    assert state["position"]["batch"] == killing.PAIRS // 2
    for folder in (out, tmp_path / "whole"):
        killing.finish(killing.start(folder, 0, 2, batch_size=1))
    assert killing.same(tmp_path / "whole", out)
