"""Each loss against its formula in plain numpy or torch, with void, in float64 and float32."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segzoo import losses

from .batches import VOID, batch


def probabilities(logits):
    if logits.shape[1] == 1:
        foreground = logits.sigmoid()
        return torch.cat([1 - foreground, foreground], dim=1)
    return logits.softmax(dim=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weights", [None, (1.0, 0.5, 3.0, 2.0)])
def test_cross_entropy_is_torchs(weights, smoothing):
    logits, target = batch()
    tensor = None if weights is None else torch.tensor(weights, dtype=logits.dtype)
    expected = F.cross_entropy(
        logits, target, weight=tensor, ignore_index=VOID, label_smoothing=smoothing
    )
    found = losses.cross_entropy(
        logits, target, class_weights=tensor, ignore_index=VOID, label_smoothing=smoothing
    )
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    grads = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-16)


def test_one_logit_is_a_sigmoid():
    logits, target = batch(classes=1)
    counted = target != VOID
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][counted], target[counted].double())
    found = losses.cross_entropy(logits, target, ignore_index=VOID)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    for loss in (losses.focal_loss, losses.cross_entropy):
        assert torch.equal(
            loss(logits, target, ignore_index=VOID), loss(both, target, ignore_index=VOID)
        )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_formula(gamma):
    logits, target = batch()
    weights = torch.tensor([1.0, 0.5, 3.0, 2.0], dtype=logits.dtype)
    counted = target != VOID
    p = probabilities(logits).permute(0, 2, 3, 1)[counted]
    t = target[counted]
    p = p[torch.arange(len(t)), t]
    expected = (-weights[t] * (1 - p) ** gamma * p.log()).sum() / weights[t].sum()
    found = losses.focal_loss(logits, target, gamma=gamma, class_weights=weights, ignore_index=VOID)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def dice_by_hand(logits, target, smooth):
    p = probabilities(logits)
    first = 1 if logits.shape[1] == 1 else 0
    counted = target != VOID
    values = []
    for c in range(first, p.shape[1]):
        truth = ((target == c) & counted).double()
        if truth.sum():
            overlap = (p[:, c] * truth).sum()
            total = (p[:, c] * counted).sum() + truth.sum()
            values.append((2 * overlap + smooth) / (total + smooth))
    return 1 - torch.stack(values).mean()


@pytest.mark.parametrize(("classes", "smooth"), [*itertools.product([1, 2, 4], [0.0, 1.0])])
def test_dice_is_its_formula(classes, smooth):
    logits, target = batch(classes=classes)
    found = losses.dice_loss(logits, target, smooth=smooth, ignore_index=VOID)
    expected = dice_by_hand(logits, target, smooth)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    grads = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-16)


def test_gradients_are_those_of_finite_differences():
    logits, target = batch(classes=3, size=(2, 4, 3))
    loss = losses.SegmentationLoss(
        ignore_index=VOID, focal=0.5, lovasz=0.5, class_weights=(1, 2, 3)
    )
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,))
    second = losses.SegmentationLoss(ignore_index=VOID, focal=0.5)
    assert torch.autograd.gradgradcheck(lambda x: second(x, target), (logits,))


def lovasz_by_hand(p, target):
    """Berman et al., 2018: the sorted errors times the differences of one minus IoU."""
    images = []
    for image, truth in zip(p, target, strict=True):
        counted = truth != VOID
        values = []
        for c in range(len(image)):
            is_true = (truth[counted] == c).astype(float)
            if not is_true.sum():
                continue
            errors = np.abs(is_true - image[c][counted])
            order = np.argsort(-errors, kind="stable")
            found = np.cumsum(is_true[order])
            union = is_true.sum() + np.cumsum(1 - is_true[order])
            jaccard = 1 - (is_true.sum() - found) / union
            values.append(np.dot(errors[order], np.diff(jaccard, prepend=0)))
        if values:
            images.append(np.mean(values))
    return np.mean(images)


def test_lovasz_is_its_formula():
    logits, target = batch()
    target[0, 4:] = VOID  # an image of void says nothing
    found = losses.lovasz_softmax(logits, target, ignore_index=VOID).detach()
    expected = lovasz_by_hand(probabilities(logits).detach().numpy(), target.numpy())
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_lovasz_of_sure_pixels_is_one_minus_iou():
    generator = torch.Generator().manual_seed(0)
    target, mask = (torch.randint(0, 3, (1, 20, 30), generator=generator) for _ in range(2))
    logits = 1e3 * F.one_hot(mask, 3).permute(0, 3, 1, 2).float()
    iou = [
        float(((mask == c) & (target == c)).sum() / ((mask == c) | (target == c)).sum())
        for c in range(3)
    ]
    assert float(losses.lovasz_softmax(logits, target)) == pytest.approx(1 - np.mean(iou), abs=1e-6)


def test_lovasz_keeps_its_digits_in_float32():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 700, 700, generator=generator)
    target = torch.randint(0, 2, (1, 700, 700), generator=generator)
    grads = []
    for dtype in (torch.float32, torch.float64):
        given = logits.to(dtype, copy=True).requires_grad_()
        losses.lovasz_softmax(given, target).backward()
        grads.append(given.grad.double())
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-12)


def boundary_by_hand(p, target, tolerance, first):
    """Bokhovkin and Burnaev, 2019, pixel by pixel."""
    n, k, h, w = p.shape

    def near(values, y, x, reach):
        return values[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]

    scores = []
    for c in range(first, k):
        sums = np.zeros(4)
        for i in range(n):
            valid = target[i] != VOID
            edges = []
            for share in (p[i, c], (target[i] == c) * 1.0):
                edge = np.zeros((h, w))
                for y, x in itertools.product(range(h), range(w)):
                    if near(valid, y, x, 1).all():
                        edge[y, x] = near(1 - share, y, x, 1).max() - (1 - share[y, x])
                edges.append(edge)
            wide = [
                np.array([[near(edge, y, x, tolerance).max() for x in range(w)] for y in range(h)])
                for edge in edges
            ]
            sums += [
                (edges[0] * wide[1]).sum(), edges[0].sum(), (edges[1] * wide[0]).sum(), edges[1].sum()
            ]  # fmt: skip
        if sums[3]:
            precision, recall = sums[0] / sums[1], sums[2] / sums[3]
            scores.append(2 * precision * recall / (precision + recall))
    return 1 - np.mean(scores)


@pytest.mark.parametrize("classes", [1, 4])
def test_the_boundary_loss_is_its_formula(classes):
    logits, target = batch(classes=classes, size=(2, 12, 11))
    target[:, 6:, :5] = 0
    found = losses.boundary_loss(logits, target, ignore_index=VOID, tolerance=1).detach()
    expected = boundary_by_hand(
        probabilities(logits).detach().numpy(), target.numpy(), 1, 1 if classes == 1 else 0
    )
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_a_boundary_within_the_tolerance_is_right():
    target = torch.zeros(1, 20, 20, dtype=torch.long)
    target[:, :, 10:] = 1
    for shift, right in ((0, True), (2, True), (4, False)):
        mask = torch.zeros(1, 20, 20, dtype=torch.long)
        mask[:, :, 10 + shift :] = 1
        logits = 1e3 * F.one_hot(mask, 2).permute(0, 3, 1, 2).float()
        loss = float(losses.boundary_loss(logits, target, tolerance=2))
        assert loss == pytest.approx(0.0, abs=1e-5) if right else loss > 0.5


def test_the_sum_is_that_of_its_losses():
    logits, target = batch()
    weights = {"cross_entropy": 0.5, "dice": 2.0, "focal": 0.25, "boundary": 3.0, "lovasz": 1.5}
    loss = losses.SegmentationLoss(ignore_index=VOID, **weights)
    given = {"ignore_index": VOID}
    expected = (
        0.5 * losses.cross_entropy(logits, target, **given)
        + 2.0 * losses.dice_loss(logits, target, **given)
        + 0.25 * losses.focal_loss(logits, target, **given)
        + 3.0 * losses.boundary_loss(logits, target, **given)
        + 1.5 * losses.lovasz_softmax(logits, target, **given)
    )
    torch.testing.assert_close(loss(logits, target), expected, rtol=1e-14, atol=0)
    assert repr(loss).startswith("SegmentationLoss(ignore_index=255, cross_entropy=0.5, dice=2.0")
    assert loss.state_dict() == {}
