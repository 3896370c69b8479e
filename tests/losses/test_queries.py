"""The loss of queries, against transformers' on the same points, and with void and ranks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from segzoo.architectures.query_heads import Queries
from segzoo.errors import ArgumentError, InputError
from segzoo.losses import MaskTargets, QueryLoss, mask_targets
from segzoo.losses.points import counted_at, unsure_points, values_at

POINTS = 200
CLASSES = 4


def queries(images: int = 2, count: int = 7, *, layers: int = 2, seed: int = 0) -> Queries:
    generator = torch.Generator().manual_seed(seed)

    def made(*shape: int) -> Tensor:
        return (3 * torch.randn(*shape, generator=generator)).requires_grad_()

    each = [(made(images, count, 9, 13), made(images, count, CLASSES + 1)) for _ in range(layers + 1)]  # fmt: skip
    return Queries(*each[-1], tuple(each[:-1]))


def labels(images: int = 2, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, CLASSES, (images, 5, 7), generator=generator)
    return coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :36, :52]


def leaves(outputs: Queries) -> list[Tensor]:
    pairs = [*outputs.layers, (outputs.mask_logits, outputs.class_logits)]
    return list(itertools.chain.from_iterable(pairs))


@pytest.fixture(scope="module")
def theirs():
    eomt = pytest.importorskip("transformers.models.eomt.modeling_eomt")
    config = eomt.EomtConfig(num_labels=CLASSES, train_num_points=POINTS)
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    return eomt.EomtLoss(config, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", [1, 3])
def test_it_is_that_of_transformers_on_the_same_points(theirs, dtype, images):
    outputs = queries(images)
    outputs = Queries(
        *(x.detach().to(dtype).requires_grad_() for x in outputs[:2]),
        tuple(
            tuple(x.detach().to(dtype).requires_grad_() for x in pair) for pair in outputs.layers
        ),
    )
    target = labels(images)
    wanted = mask_targets(target, CLASSES)
    masks, classes = [x.masks.to(dtype) for x in wanted], [x.classes for x in wanted]
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.set_default_dtype(dtype)  # their points have it
        try:
            theirs.to(dtype)
            expected = torch.zeros(())
            for pair in [*outputs.layers, outputs[:2]]:
                found = theirs(*pair, masks, classes)
                expected = expected + sum(theirs.weight_dict[name] * x for name, x in found.items())
        finally:
            torch.set_default_dtype(before)
            theirs.float()
    generator = torch.Generator().manual_seed(5)
    loss = QueryLoss(points=POINTS)(outputs, target, generator=generator)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}  # fmt: skip
    torch.testing.assert_close(loss, expected.to(dtype), **tolerance)
    ours = torch.autograd.grad(loss, leaves(outputs))
    for mine, other in zip(ours, torch.autograd.grad(expected, leaves(outputs)), strict=True):
        torch.testing.assert_close(mine, other, **tolerance)


def test_a_semantic_target_is_a_mask_for_each_class_that_is_shown():
    target = torch.tensor([[[2, 2], [0, 255]], [[1, 1], [1, 1]], [[255, 255], [255, 255]]])
    first, second, third = mask_targets(target, 3, ignore_index=255)
    assert first.classes.tolist() == [0, 2]
    assert first.masks.tolist() == [[[0, 0], [1, 0]], [[1, 1], [0, 0]]]
    assert first.valid.tolist() == [[1, 1], [1, 0]]
    assert (second.classes.tolist(), second.valid) == ([1], None)
    assert third.masks.shape == (0, 2, 2)
    one = mask_targets(torch.tensor([[[0, 1], [1, 0]], [[0, 0], [0, 0]]]), 1)
    assert [item.classes.tolist() for item in one] == [[0], []]
    assert one[0].masks.tolist() == [[[0, 1], [1, 0]]]


def test_what_is_void_changes_nothing_wherever_masks_are_predicted_there():
    target = labels()
    target[:, :16] = 255
    outputs = queries(layers=0)
    changed = Queries(outputs.mask_logits.detach().clone(), outputs.class_logits.detach())
    changed.mask_logits[:, :, :3] *= -1  # of 9 rows, 4 of which are void: the third is not seen
    loss = QueryLoss(points=2000, ignore_index=255, unsure=0.0)
    found = [
        loss(each, target, generator=torch.Generator().manual_seed(1))
        for each in (outputs, changed)
    ]
    assert torch.equal(*found)
    (gradient,) = torch.autograd.grad(found[0], [outputs.mask_logits])
    assert not gradient[:, :, :3].any()
    assert gradient[:, :, 5:].any()


def test_a_batch_of_void_or_without_the_one_class_has_finite_gradients():
    outputs = queries()
    loss = QueryLoss(points=POINTS, ignore_index=255)(outputs, torch.full((2, 36, 52), 255))
    assert float(loss.detach()) == 0
    for gradient in torch.autograd.grad(loss, leaves(outputs)):
        assert not gradient.any()
    one = Queries(outputs.mask_logits, outputs.class_logits[..., :2])
    loss = QueryLoss(points=POINTS)(one, torch.zeros(2, 36, 52, dtype=torch.long))
    assert float(loss.detach()) > 0  # all queries learn to say nothing


def test_two_ranks_have_one_loss_which_is_that_of_all_images():
    outputs, target = queries(3, layers=0), labels(3)
    target[2, 10:] = 255
    parts = [slice(0, 1), slice(1, 3)]
    loss = QueryLoss(points=4000, ignore_index=255, unsure=0.0)
    shares: list[Tensor] = []

    def part(index: int, reduce: object) -> Tensor:
        mine = Queries(outputs.mask_logits[parts[index]], outputs.class_logits[parts[index]])
        generator = torch.Generator().manual_seed(index)
        return loss(mine, target[parts[index]], reduce=reduce, generator=generator)

    part(1, lambda sums: (shares.append(sums), sums)[1])
    both = part(0, lambda sums: sums + shares[0].detach())
    part(0, lambda sums: (shares.append(sums), sums)[1])
    other = part(1, lambda sums: sums + shares[1].detach())
    assert both.detach() == pytest.approx(float(other.detach()), rel=1e-6)
    whole = loss(Queries(outputs.mask_logits, outputs.class_logits), target)
    assert both.detach() == pytest.approx(float(whole.detach()), rel=0.05)  # by other points


def test_more_masks_than_queries_and_queries_that_are_not_finite():
    target = [MaskTargets(torch.rand(9, 36, 52).round(), torch.arange(9) % CLASSES)] * 2
    outputs = queries(layers=0)
    rows, columns = QueryLoss(points=POINTS).match(
        outputs.mask_logits[0].detach(), outputs.class_logits[0].detach(), target[0]
    )
    assert len(rows) == len(columns) == 7
    broken = outputs.mask_logits.detach().clone()
    broken[:, 2] = torch.nan
    rows, _ = QueryLoss(points=POINTS).match(
        broken[0], outputs.class_logits[0].detach(), mask_targets(labels(), CLASSES)[0]
    )
    assert 2 not in rows
    assert QueryLoss(points=POINTS)(outputs, target).isfinite()


def test_weights_of_classes_are_those_of_cross_entropy():
    """A weight of zero is as if those who found the class had not been there."""
    outputs, target = queries(layers=0), labels()
    plain = {"points": POINTS, "mask_weight": 0.0, "dice_weight": 0.0, "class_weight": 3.0}
    made = QueryLoss(**plain, class_weights=[0.5, 2.0, 0.0, 1.0])
    generator = torch.Generator().manual_seed(5)
    loss = made(outputs, target, generator=generator)
    generator.manual_seed(5)
    wanted = torch.full((2, 7), CLASSES)
    for i, item in enumerate(mask_targets(target, CLASSES)):
        found = made.match(
            outputs.mask_logits[i].detach(),
            outputs.class_logits[i].detach(),
            item,
            generator=generator,
        )
        wanted[i, found[0]] = item.classes[found[1]]
    expected = torch.nn.functional.cross_entropy(
        outputs.class_logits.flatten(0, 1),
        wanted.flatten(),
        weight=torch.tensor([0.5, 2.0, 0.0, 1.0, 0.1]),
    )
    torch.testing.assert_close(loss, 3 * expected)
    same = QueryLoss(points=POINTS, class_weights=[1.0] * CLASSES)
    pair = [each(outputs, target, generator=torch.Generator().manual_seed(1)) for each in (same, QueryLoss(points=POINTS))]  # fmt: skip
    assert torch.equal(*pair)
    # Of one class the first weight is that of what is not it.
    one = Queries(outputs.mask_logits, outputs.class_logits[..., :2])
    binary = QueryLoss(**plain, class_weights=[4.0, 1.0], nothing=0.5)
    nothing = QueryLoss(**plain, nothing=2.0)
    pair = [each(one, (target == 1).long(), generator=torch.Generator().manual_seed(1)) for each in (binary, nothing)]  # fmt: skip
    assert torch.equal(*pair)
    with pytest.raises(ArgumentError, match="one weight for each of 4 classes, got 3"):
        QueryLoss(points=POINTS, class_weights=[1.0] * 3)(outputs, target)
    with pytest.raises(ArgumentError, match="class_weights"):
        QueryLoss(class_weights=[-1.0] * 4)


def test_points_are_where_a_mask_is_unsure_and_not_in_void():
    logits = torch.full((1, 8, 8), 9.0)
    logits[:, :, 4:] = -9.0
    made = {"oversampled": 8.0, "unsure": 1.0, "generator": torch.Generator().manual_seed(0)}
    points = unsure_points(logits, None, 40, **made)
    assert (values_at(logits, points).abs() < 8).all()  # at the middle, or at the image's edge
    valid = torch.ones(1, 8, 8)
    valid[:, :4] = 0
    points = unsure_points(logits, valid, 40, **made)
    assert (points[..., 1] > 0.5).all()
    assert counted_at(valid, points).all()
    corners = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    assert counted_at(torch.ones(1, 8, 8), corners).all()
    assert values_at(logits, torch.tensor([[[0.5 / 8, 0.5]]])).item() == 9.0


def found(
    classes: list[float], *, masks: int | None = None, size=(36, 52), valid: Tensor | None = None
) -> list[MaskTargets]:
    """Targets of two images, of which only the first one may be wrong."""
    count = len(classes) if masks is None else masks
    one = MaskTargets(torch.ones(count, *size), torch.tensor(classes), valid)
    return [one, MaskTargets(torch.ones(1, 36, 52), torch.tensor([0]))]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_classes_are_integers_of_any_kind(dtype):
    losses = []
    for kind in (torch.int64, dtype):
        torch.manual_seed(0)
        target = [MaskTargets(torch.ones(2, 36, 52), torch.tensor([3, 1]).to(kind))] * 2
        losses.append(QueryLoss(points=POINTS)(queries(), target))
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(2, 36, 52), r"\(N, H, W\) of integers, got torch.float32"),
        (torch.full((2, 36, 52), CLASSES), r"holds 4, which is no class: they are 0 to 3"),
        (torch.zeros(3, 36, 52, dtype=torch.long), "targets for 3 images, and queries of 2"),
        (found([4]), "MaskTargets hold the class 4, and the queries tell 0 to 3"),
        (found([7]), "hold the class 7"),
        (found([-1]), "hold the class -1"),
        (found([1.0]), r"must have masks .*\(1, 36, 52\) and \(1,\) of torch.float32"),
        (found([1, 2], masks=1), r"must have masks .*\(1, 36, 52\) and \(2,\)"),
        (found([1], size=(8, 8)), r"one size \(H, W\), got \(8, 8\) and \(36, 52\)"),
        (found([1], valid=torch.ones(8, 52)), r"got \(8, 52\) and \(36, 52\)"),
        (found([1])[0], "a list of MaskTargets, one for each image; got MaskTargets"),
        ([torch.zeros(36, 52)] * 2, "a list of MaskTargets"),
    ],
)
def test_targets_that_do_not_go_with_the_queries(target, message):
    with pytest.raises(InputError, match=message):
        QueryLoss(points=POINTS)(queries(), target)
    with pytest.raises(ArgumentError, match="points must be between"):
        QueryLoss(points=0)
