"""The losses of a training run: a weighted sum, and that of a model with more than one output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..errors import ArgumentError, InputError
from .boundary import TOLERANCE, boundary_term
from .overlap import LOVASZ_TERM, dice_term
from .per_pixel import cross_entropy_term, focal_term, weights_of_classes
from .sums import Reduce, ratio, reduced, total_loss, wide

if TYPE_CHECKING:
    from ..architectures.heads import Outputs


class SegmentationLoss(nn.Module):
    """A weighted sum of losses: cross-entropy and Dice, unless told otherwise.

    >>> loss = segzoo.losses.SegmentationLoss(ignore_index=255)
    >>> float(loss(torch.randn(2, 3, 8, 8), torch.full((2, 8, 8), 255)))
    0.0

    Cross-entropy, focal and Dice loss together keep one float32 copy of the logits for the
    gradient and some maps of one channel, no one-hot target. The boundary loss and Lovász-Softmax
    keep several copies.

    Args:
        ignore_index: The value of void in targets; None where all pixels count. It may be one of
            the classes, which then is not learned.
        cross_entropy: Weight of :func:`cross_entropy`.
        dice: Weight of :func:`dice_loss`.
        focal: Weight of :func:`focal_loss`.
        focal_gamma: Its exponent, 0 to 100.
        boundary: Weight of :func:`boundary_loss`.
        lovasz: Weight of :func:`lovasz_softmax`.
        class_weights: One weight for each class (two for one logit) in cross-entropy and focal
            loss; None for equal ones. :func:`balanced_weights` makes some.
        label_smoothing: Share of the target that cross-entropy spreads over all classes, 0 to 1.

    Raises:
        ArgumentError: A value out of its range, or no weight above 0; when called, weights for
            another number of classes.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        cross_entropy: float = 1.0,
        dice: float = 1.0,
        focal: float = 0.0,
        focal_gamma: float = 2.0,
        boundary: float = 0.0,
        lovasz: float = 0.0,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        given = {
            "cross_entropy": cross_entropy,
            "dice": dice,
            "focal": focal,
            "boundary": boundary,
            "lovasz": lovasz,
        }
        self.weights: Mapping[str, float] = {
            name: checks.number(name, value, minimum=0.0, maximum=1e6)
            for name, value in given.items()
            if value != 0
        }
        if not self.weights:
            raise ArgumentError(f"There is no loss: one of {', '.join(given)} must be above 0.")
        self.ignore_index = checks.void("ignore_index", ignore_index)
        self.focal_gamma = checks.number("focal_gamma", focal_gamma, minimum=0.0, maximum=100.0)
        self.label_smoothing = checks.number(
            "label_smoothing", label_smoothing, minimum=0.0, maximum=1.0
        )
        # They go where the loss is moved, and into no checkpoint.
        self.register_buffer("class_weights", weights_of_classes(class_weights), persistent=False)

    def forward(self, logits: Tensor, target: Tensor, *, reduce: Reduce | None = None) -> Tensor:
        """The loss.

        Args:
            logits: ``(N, K, H, W)``, floating point.
            target: ``(N, H, W)``, integers: classes (0 and 1 where K is 1) or ``ignore_index``.
            reduce: Adds a tensor up over all ranks; None for one rank.

        Returns:
            A scalar.

        Raises:
            InputError: Shapes or types that do not go together, or a target that is no class;
                values are looked at on CPUs only, where it costs next to nothing.
        """
        terms = {
            "cross_entropy": cross_entropy_term(self.class_weights, self.label_smoothing),
            "dice": dice_term(1.0),
            "focal": focal_term(self.class_weights, self.focal_gamma),
            "boundary": boundary_term(TOLERANCE),
            "lovasz": LOVASZ_TERM,
        }
        used = [(weight, terms[name]) for name, weight in self.weights.items()]
        return total_loss(used, logits, target, ignore_index=self.ignore_index, reduce=reduce)

    def extra_repr(self) -> str:
        """The weights, as modules print them."""
        shown = {"ignore_index": self.ignore_index, **self.weights}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def outputs_loss(
    loss: Callable[..., Tensor],
    outputs: Outputs,
    target: Tensor,
    *,
    auxiliary: float = 0.4,
    image: float = 0.2,
    labels: Tensor | None = None,
    reduce: Reduce | None = None,
) -> Tensor:
    """The loss of all that :meth:`segzoo.SegmentationModel.forward_heads` gives.

    Args:
        loss: Such as a :class:`SegmentationLoss`.
        outputs: Of ``forward_heads``.
        target: ``(N, H, W)``, for the mask and for every auxiliary head.
        auxiliary: Weight of the mean over the auxiliary heads (Lee et al., "Deeply-Supervised
            Nets", 2015; 0.4 for one head in Zhao et al., "Pyramid Scene Parsing Network", 2017).
        image: Weight of the image-level loss (0.2 in Zhang et al., "Context Encoding for Semantic
            Segmentation", 2018).
        labels: What the classification head learns: ``(N,)`` integers, one class an image (0 or 1
            where it has one logit), or ``(N, C)`` of 0 and 1, the classes that an image shows; None
            for those that its mask shows, where the head has as many classes as the mask. Of an
            image of nothing but void it then learns nothing.
        reduce: Adds a tensor up over all ranks; None for one rank.

    Raises:
        ArgumentError: A weight that is no number, or negative.
        InputError: As for ``loss``, or labels that the classification head cannot learn; their
            values are looked at on CPUs only.
    """
    auxiliary = checks.number("auxiliary", auxiliary, minimum=0.0, maximum=1e6)
    image = checks.number("image", image, minimum=0.0, maximum=1e6)
    total: Tensor = loss(outputs.logits, target, reduce=reduce)
    if auxiliary and outputs.auxiliary:
        heads = [loss(logits, target, reduce=reduce) for logits in outputs.auxiliary.values()]
        total = total + auxiliary * torch.stack(heads).mean()
    if image and outputs.image_logits is not None:
        known: Tensor | None = None
        if labels is None:
            labels, known = _shown(outputs, target, getattr(loss, "ignore_index", None))
        each = _image_losses(wide(outputs.image_logits), labels)
        counted = torch.ones_like(each) if known is None else known.to(each)
        pair = torch.stack([(each * counted).sum(), counted.sum()])
        total = total + image * ratio(*reduced([pair], reduce))
    return total


def _shown(outputs: Outputs, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Which classes each mask shows, and of which it says so: both ``(N, K)``, bool."""
    assert outputs.image_logits is not None
    classes, wanted = outputs.logits.shape[1], outputs.image_logits.shape[1]
    if classes != wanted:
        raise InputError(
            f"The classification head has {wanted} classes and the mask {classes}, so the mask "
            "does not say what it should learn: give labels=, or image=0."
        )
    numbers = torch.arange(classes, device=target.device) + (1 if classes == 1 else 0)
    pixels = target.flatten(1).long()
    counted = torch.ones_like(pixels, dtype=torch.bool)
    known = torch.ones_like(numbers, dtype=torch.bool)
    if ignore_index is not None:
        counted, known = pixels != ignore_index, numbers != ignore_index
    shown = [((pixels == number) & counted).any(dim=1) for number in numbers]
    return torch.stack(shown, dim=1), counted.any(dim=1)[:, None] & known


def _image_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each label: ``(N,)``, or ``(N, C)`` where an image has one for each class."""
    count, classes = logits.shape
    if not isinstance(labels, Tensor):
        raise InputError(f"labels must be a tensor or None, got {type(labels).__name__}.")
    if labels.shape == (count,) and not (labels.is_floating_point() or labels.is_complex()):
        _check_labels(labels, max(classes, 2) - 1)
        if classes > 1:
            return F.cross_entropy(logits, labels.to(logits.device).long(), reduction="none")
        logits = logits[:, 0]
    elif labels.shape == logits.shape and not labels.is_complex():
        _check_labels(labels, 1)
    else:
        raise InputError(
            f"labels must be ({count},) integers or {tuple(logits.shape)} of 0 and 1, got "
            f"{labels.dtype} of the shape {tuple(labels.shape)}."
        )
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")


def _check_labels(labels: Tensor, largest: int) -> None:
    if labels.device.type != "cpu":  # a GPU would have to be waited for
        return
    wrong = labels[~((labels >= 0) & (labels <= largest))]
    if len(wrong):
        raise InputError(
            f"labels hold {wrong[0].item()}, and the classification head learns 0 to {largest}."
        )
