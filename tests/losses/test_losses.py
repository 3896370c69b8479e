"""Each loss against its formula in plain numpy or torch, with void, in float64 and float32."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import segzoo
from segzoo import losses
from segzoo.errors import ArgumentError, InputError

VOID = 255


def batch(classes=4, void=True, size=(2, 9, 7), dtype=torch.float64):
    """Logits and a target in which class 3 is absent and a corner is void."""
    generator = torch.Generator().manual_seed(1)
    n, h, w = size
    logits = torch.randn(n, classes, h, w, generator=generator, dtype=dtype)
    target = torch.randint(0, max(classes - 1, 2), size, generator=generator)
    if void:
        target[0, :4] = VOID
        target[1, 0, 0] = VOID
    return logits.requires_grad_(), target


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


ALL = {"focal": 1.0, "boundary": 1.0, "lovasz": 1.0}


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


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_batch_of_void_has_the_loss_zero_and_zero_gradients(classes, dtype):
    logits, target = batch(classes=classes, dtype=dtype)
    target[:] = VOID
    loss = losses.SegmentationLoss(ignore_index=VOID, label_smoothing=0.1, **ALL)(logits, target)
    loss.backward()
    assert loss == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("classes", [1, 4])
def test_what_void_pixels_hold_changes_nothing(classes):
    logits, target = batch(classes=classes)
    loss = losses.SegmentationLoss(ignore_index=VOID, **ALL)
    other = logits.detach().clone()
    other[(target == VOID)[:, None].expand_as(other)] *= -7
    # Boundaries look one pixel far, but none that touches void counts.
    torch.testing.assert_close(loss(other, target), loss(logits, target), rtol=1e-13, atol=0)
    loss(logits, target).backward()
    assert logits.grad.permute(0, 2, 3, 1)[target == VOID].abs().max() == 0


def test_void_may_be_one_of_the_classes():
    logits, target = batch(void=False)
    found = losses.SegmentationLoss(ignore_index=0)(logits, target)
    moved = target.masked_fill(target == 0, VOID)
    assert torch.equal(found, losses.SegmentationLoss(ignore_index=VOID)(logits, moved))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("classes", [1, 3])
def test_extreme_logits_stay_finite(classes, sign):
    logits, target = batch(classes=classes, dtype=torch.float32)
    with torch.no_grad():
        logits.mul_(sign * 1e6)
    loss = losses.SegmentationLoss(ignore_index=VOID, focal_gamma=0.5, **ALL)(logits, target)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_half_precision_and_autocast_are_computed_in_float32():
    logits, target = batch(dtype=torch.bfloat16)
    loss = losses.SegmentationLoss(ignore_index=VOID, label_smoothing=0.1, **ALL)
    expected = loss(logits.float(), target)
    assert torch.equal(loss(logits, target), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(logits, target), expected)
    assert expected.dtype == torch.float32


def test_layout_and_integer_type_do_not_matter():
    logits, target = batch()
    loss = losses.SegmentationLoss(ignore_index=VOID, **ALL)
    expected = loss(logits, target)
    last = logits.detach().to(memory_format=torch.channels_last).requires_grad_()
    for kind in (torch.uint8, torch.int16, torch.int32):
        torch.testing.assert_close(loss(last, target.to(kind)), expected, rtol=1e-14, atol=0)


def test_torchs_function_transforms_take_them():
    logits, target = batch()
    loss = losses.SegmentationLoss(ignore_index=VOID)
    expected = torch.autograd.grad(loss(logits, target), logits)[0]
    found = torch.func.grad(lambda x: loss(x, target))(logits.detach())
    assert torch.equal(found, expected)


def kept_for_the_gradient(loss, logits, target):
    """Bytes of the tensors that autograd keeps, each storage once."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(logits, target).backward()
    return sum(kept.values())


def test_dice_keeps_one_copy_of_the_logits():
    logits = torch.randn(2, 40, 32, 32, requires_grad=True)
    target = torch.randint(0, 40, (2, 32, 32))
    copy, channel = logits.nbytes, logits.nbytes // 40
    kept = kept_for_the_gradient(losses.SegmentationLoss(ignore_index=VOID), logits, target)
    assert kept <= copy + 12 * channel


def test_balanced_weights_are_those_of_enet():
    weights = losses.balanced_weights([30, 10, 0])
    np.testing.assert_allclose(weights, 1 / np.log(1.02 + np.array([0.75, 0.25, 0.0])))
    assert losses.SegmentationLoss(class_weights=weights).class_weights.shape == (3,)
    assert losses.balanced_weights([0, 0])[0] == losses.balanced_weights([0, 0])[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cross_entropy": 0, "dice": 0}, "There is no loss: one of cross_entropy, dice"),
        ({"dice": -1}, "dice must be between 0"),
        ({"focal": float("nan")}, "focal must be between"),
        ({"focal_gamma": -0.1}, "focal_gamma must be between 0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be between 0"),
        ({"class_weights": (1.0, -2.0)}, r"class_weights\[1\] must be between 0"),
        ({"class_weights": 3}, "class_weights must be a sequence"),
    ],
)
def test_what_cannot_be_a_loss(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        losses.SegmentationLoss(**arguments)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 4).long(), r"Expected logits \(N, K, H, W\)"),
        (torch.zeros(1, 3, 4, 4).long(), torch.zeros(1, 4, 4).long(), "of floating point"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4).long(), r"need a target of the shape \(1, 4, 4\)"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), "holds classes, so integers"),
        (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 3), "holds 3, which is no class: they are 0 to 2"),
        (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), -1), "holds -1, which is no class"),
        (torch.zeros(1, 1, 4, 4), torch.full((1, 4, 4), 2), "they are 0 to 1, with no void"),
    ],
)  # fmt: skip
def test_what_a_loss_cannot_take(logits, target, message):
    with pytest.raises(InputError, match=message):
        losses.SegmentationLoss()(logits, target)


def test_class_weights_must_fit_the_classes():
    with pytest.raises(ArgumentError, match="one weight for each of 3 classes"):
        losses.SegmentationLoss(class_weights=(1.0, 2.0))(
            torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long()
        )


def test_a_model_with_more_outputs():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, 5, 6, generator=generator) for _ in range(3)]
    target = torch.randint(0, 2, (2, 5, 6), generator=generator)
    target[0, 0] = VOID
    target[1] = 0
    loss = losses.SegmentationLoss(ignore_index=VOID)
    image_logits = torch.randn(2, 3, generator=generator)
    outputs = segzoo.Outputs(maps[0], {"a": maps[1], "b": maps[2]}, image_logits)
    found = losses.outputs_loss(loss, outputs, target, auxiliary=0.4, image=0.2)
    shown = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    expected = (
        loss(maps[0], target)
        + 0.4 * (loss(maps[1], target) + loss(maps[2], target)) / 2
        + 0.2 * F.binary_cross_entropy_with_logits(image_logits, shown)
    )
    torch.testing.assert_close(found, expected)
    one = losses.outputs_loss(loss, outputs, target, auxiliary=0, labels=torch.tensor([2, 0]))
    expected = loss(maps[0], target) + 0.2 * F.cross_entropy(image_logits, torch.tensor([2, 0]))
    torch.testing.assert_close(one, expected)
    plain = segzoo.Outputs(maps[0], {}, None)
    assert torch.equal(losses.outputs_loss(loss, plain, target), loss(maps[0], target))
    with pytest.raises(InputError, match="labels must be"):
        losses.outputs_loss(loss, outputs, target, labels=torch.zeros(3))
    four = segzoo.Outputs(maps[0], {}, torch.zeros(2, 4))
    with pytest.raises(InputError, match="has 4 classes and the mask 3"):
        losses.outputs_loss(loss, four, target)


def test_a_real_model_learns_from_all_of_its_outputs():
    model = segzoo.Unet(
        "test_resnet", 3, decoder_channels=(16, 8, 8, 8, 8), deep_supervision=("blocks.2",),
        auxiliary_stride=16, classification=segzoo.Classification(classes=3),
    )  # fmt: skip
    target = torch.randint(0, 3, (2, 40, 50))
    loss = losses.outputs_loss(
        losses.SegmentationLoss(), model.forward_heads(torch.randn(2, 3, 40, 50)), target
    )
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
