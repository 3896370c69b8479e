"""Losses of overlap: soft Dice, and the Lovász extension of IoU."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import checks
from .sums import Pixels, Reduce, Term, mean_where, ratio, total_loss


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 1.0,
    ignore_index: int | None = None,
    reduce: Reduce | None = None,
) -> Tensor:
    """One minus the mean soft Dice, ``(2 overlap + smooth) / (predicted + true + smooth)``.

    Milletari et al., "V-Net", 2016, section 3, with plain sums for their squares, as in Sudre et
    al., 2017. The sums are over all pixels of the batch; the mean is over the classes that it
    shows. One that nobody could find says nothing of overlap, and cross-entropy punishes where it
    is seen all the same. Where K is 1, only class 1 is measured.

    Args:
        logits: ``(N, K, H, W)``, floating point.
        target: ``(N, H, W)``, integers: classes (0 and 1 where K is 1) or ``ignore_index``.
        smooth: In pixels, 0 or more; softens the slope of a class of few pixels.
        ignore_index: The value of void; None where all pixels count.
        reduce: Adds a tensor up over all ranks; None for one rank.

    Raises:
        InputError: Shapes or types that do not go together, or a target that is no class.
        ArgumentError: A ``smooth`` or a void out of its range.
    """
    checks.number("smooth", smooth, minimum=0.0, maximum=1e9)
    terms = [(1.0, dice_term(smooth))]
    return total_loss(terms, logits, target, ignore_index=ignore_index, reduce=reduce)


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    reduce: Reduce | None = None,
) -> Tensor:
    """The Lovász extension of one minus IoU: the mean over an image's classes, then over images.

    Berman et al., "The Lovász-Softmax loss", 2018, equations 8 and 11, for each image on its own
    (their image-mIoU), over the classes that it shows. Only so is the loss of a batch that is
    spread over ranks that of the whole. Errors of each class are sorted: of these losses it takes
    much time and keeps six copies of the logits. Where K is 1, only class 1 is measured.

    Args:
        logits: ``(N, K, H, W)``, floating point.
        target: ``(N, H, W)``, integers: classes (0 and 1 where K is 1) or ``ignore_index``.
        ignore_index: The value of void; None where all pixels count.
        reduce: Adds a tensor up over all ranks; None for one rank.

    Raises:
        InputError: Shapes or types that do not go together, or a target that is no class.
        ArgumentError: A void that is no whole number of 32 bits.
    """
    terms = [(1.0, LOVASZ_TERM)]
    return total_loss(terms, logits, target, ignore_index=ignore_index, reduce=reduce)


def dice_term(smooth: float) -> Term:
    """Soft Dice as sums and a formula."""
    return Term(_dice_sums, partial(_dice, smooth=smooth))


def _dice_sums(pixels: Pixels) -> Tensor:
    """Overlap, predicted and true pixels of each class, ``(3, classes)``."""
    predicted: Tensor = _Predicted.apply(pixels.log, pixels.valid)
    overlap = pixels.by_class(pixels.true.exp())
    return torch.stack([overlap, predicted, pixels.by_class(pixels.valid)])[:, pixels.first :]


def _dice(sums: Tensor, *, smooth: float) -> Tensor:
    overlap, predicted, true = sums
    dice = (2 * overlap + smooth) / (predicted + true + smooth).clamp_min(1e-30)
    return mean_where(1 - dice, true > 0)


class _Predicted(torch.autograd.Function):
    """Log-probabilities and valid pixels -> the soft number of pixels of each class.

    Plain calls would keep the probabilities for the gradient. Here they are computed again, from
    log-probabilities that the softmax has kept already: that is one copy of the logits less.
    """

    @staticmethod
    def forward(log: Tensor, valid: Tensor) -> Tensor:
        return log.exp().mul_(valid[:, None]).sum(dim=(0, 2, 3))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        log, valid = ctx.saved_tensors
        shares, by_class = log.exp(), grads[0][:, None, None]
        if torch.is_grad_enabled():  # somebody wants the gradient of this gradient
            return shares * valid[:, None] * by_class, None
        return shares.mul_(valid[:, None]).mul_(by_class), None


def _lovasz_sums(pixels: Pixels) -> Tensor:
    """The sum over images of their mean over classes, and how many images show a class."""
    classes = range(pixels.first, pixels.log.shape[1])
    probabilities = pixels.log[:, pixels.first :].flatten(2).exp()
    target, valid = pixels.target.flatten(1), pixels.valid.flatten(1)
    # Of a rank that has no image the sums are 0 as well.
    losses, counts = [probabilities.sum() * 0], [valid.new_zeros((), dtype=torch.bool)]
    for probability, classes_of, counted in zip(probabilities, target, valid, strict=True):
        truth = (classes_of == torch.tensor(classes, device=target.device)[:, None]) * counted
        shown = truth.sum(dim=1) > 0
        # Void has no error: it comes last, and changes nothing that lies before it.
        errors = (truth - probability).abs() * counted
        losses.append(mean_where(_lovasz(errors, truth), shown))
        counts.append(shown.any())
    return torch.stack([torch.stack(losses).sum(), torch.stack(counts).sum().to(valid.dtype)])


def _lovasz(errors: Tensor, truth: Tensor) -> Tensor:
    """The Lovász extension of one minus IoU of each class; both ``(classes, pixels)``."""
    ordered, order = errors.sort(dim=1, descending=True)
    is_true = truth.gather(1, order) > 0
    found = is_true.cumsum(dim=1, dtype=torch.int32)
    total = found[:, -1:]
    remaining = total - found
    union = total + torch.arange(1, 1 + errors.shape[1], device=errors.device) - found
    # How much IoU falls with each pixel more. As a difference of two IoUs it would have few digits.
    step = torch.where(
        is_true, 1.0, remaining.to(errors.dtype) / (union - 1).clamp_min(1)
    ) / union.clamp_min(1)
    return (ordered * step.detach()).sum(dim=1)


LOVASZ_TERM = Term(_lovasz_sums, ratio)
