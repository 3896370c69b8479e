"""A training that was killed goes on, and ends with the bits of one that never was."""

from __future__ import annotations

import random

import pytest
import torch

from segzoo.training.processes import cpus_share

from . import killing


@pytest.mark.parametrize(
    ("workers", "ranks", "longest", "kills", "more"),
    [
        (0, 1, 0.6, 3, {}),
        (2, 1, 0.8, 3, {}),
        (0, 2, 1.5, 3, {}),
        (0, 2, 2.5, 1, {"sharding": "full"}),
    ],
    ids=["alone", "two workers", "two ranks", "two ranks, each with a part"],
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
