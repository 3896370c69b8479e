"""What a loss makes of void, extremes, precisions and wrong arguments; models with more outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import segzoo
from segzoo import losses
from segzoo.errors import ArgumentError, InputError

from .batches import ALL, VOID, batch


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


def of_labels(image_logits, labels, *, target=None, void=None):
    """The image-level part of the loss alone; the mask counts for nothing."""
    count, classes = image_logits.shape
    target = torch.zeros(count, 4, 4).long() if target is None else target
    outputs = segzoo.Outputs(torch.zeros(count, classes, 4, 4), {}, image_logits)

    class Nothing(losses.SegmentationLoss):
        def forward(self, logits, target, *, reduce=None):
            return logits.sum() * 0

    loss = Nothing(ignore_index=void)
    return losses.outputs_loss(loss, outputs, target, image=1, labels=labels)


def test_one_image_logit_tells_two_classes_apart():
    image_logits = torch.tensor([[3.0], [-2.0], [0.5]], requires_grad=True)
    labels = torch.tensor([1, 0, 0])
    found = of_labels(image_logits, labels)
    two = torch.cat([torch.zeros(3, 1), image_logits], dim=1)
    torch.testing.assert_close(found, F.cross_entropy(two, labels))
    torch.testing.assert_close(found, of_labels(image_logits, labels[:, None]))
    found.backward()
    assert (image_logits.grad != 0).all()


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (1, [0, 2], "labels hold 2, and the classification head learns 0 to 1"),
        (3, [0, 3], "labels hold 3, and the classification head learns 0 to 2"),
        (3, [-100, 0], "labels hold -100, and the classification head learns 0 to 2"),
        (2, [[0, 1], [2, 0]], "labels hold 2, and the classification head learns 0 to 1"),
        (2, [[0.0, 1.0], [float("nan"), 0.0]], "labels hold nan"),
        (2, [[0.5j, 1], [0, 1]], "labels must be"),
    ],
)
def test_labels_that_the_classification_head_cannot_learn(classes, labels, message):
    with pytest.raises(InputError, match=message):
        of_labels(torch.zeros(2, classes), torch.tensor(labels))


def test_void_teaches_the_classification_head_nothing():
    target = torch.zeros(2, 4, 4).long()
    target[1] = VOID
    image_logits = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    found = of_labels(image_logits, None, target=target, void=VOID)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, of_labels(image_logits[:1], None, target=target[:1]))
    found.backward()
    assert (image_logits.grad[0] != 0).all()
    assert (image_logits.grad[1] == 0).all()
    image_logits.grad = None
    nothing = of_labels(image_logits, None, target=torch.full_like(target, VOID), void=VOID)
    nothing.backward()
    assert nothing == 0
    assert (image_logits.grad == 0).all()
    # A class that is void is not learned; what is said of images by hand counts.
    image_logits.grad = None
    of_labels(image_logits, None, target=target.clamp_max(2), void=0).backward()
    assert (image_logits.grad == 0).tolist() == [[True] * 3, [True, False, False]]
    assert of_labels(image_logits, torch.tensor([0, 1]), target=target, void=VOID) > 0


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


@pytest.mark.parametrize("void", [-1, -100])
def test_void_is_no_other_number_in_small_integers(void):
    logits = torch.randn(1, 3, 4, 4)
    target = torch.full((1, 4, 4), void % 256, dtype=torch.uint8)
    with pytest.raises(InputError, match=f"holds {void % 256}"):
        losses.cross_entropy(logits, target, ignore_index=void)
    with pytest.raises(InputError, match=f"holds {void % 256}"):
        losses.distillation_loss(logits, logits, target, ignore_index=void)


def test_a_rank_without_an_image_has_a_loss():
    logits, target = batch(classes=3)
    logits = logits[:0].detach().requires_grad_()
    loss = losses.SegmentationLoss(ignore_index=VOID, **ALL)(logits, target[:0])
    loss.backward()
    assert loss == 0
    assert logits.grad.shape == logits.shape


def test_weights_of_classes_are_what_balanced_weights_gives():
    logits, target = batch(classes=3)
    weights = losses.balanced_weights([5, 3, 2])
    for loss in (losses.cross_entropy, losses.focal_loss):
        assert loss(logits, target, ignore_index=VOID, class_weights=weights) == loss(
            logits, target, ignore_index=VOID, class_weights=torch.tensor(weights)
        )
