"""The loss of a batch that is spread over ranks is that of the whole batch, and so is its gradient."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import segzoo
from segzoo import losses

from .. import forking

VOID = 255
LOSSES = {
    "cross_entropy": {"cross_entropy": 1.0, "dice": 0.0},
    "weighted": {"dice": 0.0, "class_weights": (1.0, 3.0, 0.2), "label_smoothing": 0.2},
    "dice": {"cross_entropy": 0.0},
    "focal": {"cross_entropy": 0.0, "dice": 0.0, "focal": 1.0},
    "boundary": {"cross_entropy": 0.0, "dice": 0.0, "boundary": 1.0},
    "lovasz": {"cross_entropy": 0.0, "dice": 0.0, "lovasz": 1.0},
    "all": {"focal": 0.5, "boundary": 0.5, "lovasz": 0.5},
}


def whole_batch(images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 3, 6, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 3, (images, 6, 5), generator=generator)
    target[0] = VOID  # so void is uneven
    target[1:, :1] = VOID
    return logits.requires_grad_(), target


def over_shards(loss, logits, target, shards):
    """Each rank's loss, where the sums of the others are known: two passes over all shards."""
    sums = []
    for shard in shards:
        loss(logits[shard], target[shard], reduce=lambda x: sums.append(x) or x)
    total = torch.stack(sums).sum(dim=0)
    return [loss(logits[shard], target[shard], reduce=lambda _: total) for shard in shards]


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 5), max_size=3))
def test_shards_have_the_loss_and_the_gradient_of_the_whole(options, cuts):
    logits, target = whole_batch(6)
    loss = losses.SegmentationLoss(ignore_index=VOID, **options)
    expected = loss(logits, target)
    edges = [0, *sorted(set(cuts)), 6]
    shards = [slice(*pair) for pair in itertools.pairwise(edges)]
    found = over_shards(loss, logits, target, shards)
    for value in found:
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=0)
    grads = [
        torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found[0], expected)
    ]
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-16)


def test_the_mean_of_the_ranks_own_losses_is_another_number():
    logits, target = whole_batch(6)
    loss = losses.SegmentationLoss(ignore_index=VOID)
    own = torch.stack([loss(logits[:3], target[:3]), loss(logits[3:], target[3:])]).mean()
    assert abs((own - loss(logits, target)).item()) > 1e-3


def test_other_outputs_are_counted_over_all_ranks():
    logits, target = whole_batch(5)
    labels = torch.tensor([0, 2, 1, 1, 0])
    image_logits = torch.linspace(-1, 1, 15).view(5, 3)
    loss = losses.SegmentationLoss(ignore_index=VOID)

    def of(shard, reduce=None):
        outputs = segzoo.Outputs(logits[shard], {"a": -logits[shard]}, image_logits[shard])
        return losses.outputs_loss(
            loss, outputs, target[shard], labels=labels[shard], reduce=reduce
        )

    shards = [slice(0, 1), slice(1, 5)]
    sums = {shard.start: [] for shard in shards}
    for shard in shards:
        of(shard, lambda x, kept=sums[shard.start]: kept.append(x) or x)
    totals = [sum(parts) for parts in zip(*sums.values(), strict=True)]
    assert len(totals) == 3  # mask, auxiliary head, labels
    for shard in shards:
        left = iter(totals)
        found = of(shard, lambda _, left=left: next(left))
        torch.testing.assert_close(found, of(slice(0, 5)))


def of_one_rank(folder: Path) -> None:
    """Its part of the batch's loss, and the gradients that both have then."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    images, target, weights = torch.load(folder / "batch")
    model = nn.Conv2d(3, 3, 1).double()
    model.load_state_dict(weights)
    parallel = DistributedDataParallel(model)
    loss = losses.SegmentationLoss(ignore_index=VOID, focal=0.5, boundary=0.5, lovasz=0.5)
    shard = slice(0, 2) if rank == 0 else slice(2, 5)
    value = loss(parallel(images[shard]), target[shard], reduce=losses.sum_over_ranks)
    value.backward()
    torch.save((value.detach(), [p.grad for p in model.parameters()]), folder / str(rank))
    distributed.destroy_process_group()


def test_two_processes_train_as_one(tmp_path):
    images, target = whole_batch(5)
    model = nn.Conv2d(3, 3, 1).double()
    torch.save((images.detach(), target, model.state_dict()), tmp_path / "batch")
    forking.on_ranks(of_one_rank, tmp_path)
    loss = losses.SegmentationLoss(ignore_index=VOID, focal=0.5, boundary=0.5, lovasz=0.5)
    expected = loss(model(images.detach()), target)
    expected.backward()
    for rank in range(2):
        value, grads = torch.load(tmp_path / f"{rank}")
        torch.testing.assert_close(value, expected.detach(), rtol=1e-13, atol=0)
        for grad, parameter in zip(grads, model.parameters(), strict=True):
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-11, atol=1e-15)


def test_without_ranks_a_sum_is_the_tensor_itself():
    tensor = torch.ones(3)
    assert losses.sum_over_ranks(tensor) is tensor
