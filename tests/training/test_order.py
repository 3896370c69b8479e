"""Order and schedule are functions of seed and place, whatever happened before."""

from __future__ import annotations

import itertools

import pytest
import torch

from segzoo.training.order import Batches, Order
from segzoo.training.schedule import OneCycle


@pytest.mark.parametrize("images", [1, 2, 7, 12, 101])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_every_image_comes_and_all_batches_are_full(images, batch_size, processes):
    order = Order(images, batch_size, processes, seed=3)
    for epoch in range(2):
        each = [order.epoch(epoch, process) for process in range(processes)]
        assert {len(batches) for batches in each} == {order.batches}
        assert {len(batch) for batches in each for batch in batches} == {order.size}
        keys = [key for batches in each for batch in batches for key in batch]
        assert {at for at, _ in keys} == {epoch}
        assert {index for _, index in keys} == set(range(images))
        # None comes again before all have come: at most once more than any other.
        counts = [keys.count((epoch, index)) for index in range(images)]
        assert max(counts) - min(counts) <= 1


def test_processes_share_what_one_would_take():
    alone = Order(20, 4, 1, seed=1).epoch(5)
    two = Order(20, 2, 2, seed=1)
    together = [sorted(a + b) for a, b in zip(two.epoch(5, 0), two.epoch(5, 1), strict=True)]
    assert together == [sorted(batch) for batch in alone]


def test_epochs_and_seeds_differ():
    orders = [Order(50, 5, seed=seed).epoch(epoch) for seed in (0, 1) for epoch in (0, 1)]
    without = [[[index for _, index in batch] for batch in order] for order in orders]
    for one, other in itertools.combinations(without, 2):
        assert one != other


def test_batches_begin_anywhere():
    order = Order(10, 3, seed=2)
    whole = list(Batches(order, 0, epoch=0, batch=0, epochs=3))
    assert len(whole) == len(Batches(order, 0, epoch=0, batch=0, epochs=3)) == 12
    for place in range(13):
        rest = Batches(order, 0, epoch=place // 4, batch=place % 4, epochs=3)
        assert list(rest) == whole[place:]
        assert len(rest) == 12 - place
    # A stop after the last batch of an epoch, before it was judged.
    assert list(Batches(order, 0, epoch=1, batch=4, epochs=3)) == whole[8:]


@pytest.mark.parametrize("steps", [2, 3, 10, 80, 1000])
def test_the_cycle_is_that_of_torch(steps):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=max(steps, 4))
    ours = OneCycle(max(steps, 4))
    for step in range(max(steps, 4)):
        group = optimizer.param_groups[0]
        rate, momentum = ours.at(step)
        assert rate == pytest.approx(group["lr"], rel=1e-9, abs=1e-12)
        assert momentum == pytest.approx(group["betas"][0], rel=1e-9)
        optimizer.step()
        if step < max(steps, 4) - 1:
            theirs.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_any_cycle_has_rates_that_can_be_used(steps, warmup):
    for step in range(steps):
        rate, momentum = OneCycle(steps, warmup).at(step)
        assert 0 < rate <= 1
        assert 0.85 <= momentum <= 0.95
