"""The loss of queries: each target mask gets the query that suits it best, and teaches that one.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", 2022, section
3.3, with the weights of Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", 2025.
Without void it is the loss of ``EomtForUniversalSegmentation`` and
``Mask2FormerForUniversalSegmentation`` in transformers. What is void here belongs to no mask, and
no point of it is learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..errors import ArgumentError, InputError
from ..nn.full_precision import full_precision
from ..packages import load_package
from .per_pixel import weights_of_classes
from .points import counted_at, drawn, unsure_points, values_at
from .sums import Reduce, reduced, wide

if TYPE_CHECKING:
    from ..architectures.query_heads import Queries


@dataclass(frozen=True)
class MaskTargets:
    """What is to be found in one image.

    Attributes:
        masks: ``(T, H, W)`` of 0 and 1; ``H`` and ``W`` are those of all images of a batch.
        classes: ``(T,)``, integers: the class of each mask.
        valid: ``(H, W)`` of 0 and 1, or None where everything counts.
    """

    masks: Tensor
    classes: Tensor
    valid: Tensor | None = None


def mask_targets(
    target: Tensor, classes: int, *, ignore_index: int | None = None
) -> list[MaskTargets]:
    """One mask for each class that an image shows: what semantic segmentation teaches queries.

    Args:
        target: ``(N, H, W)``, integers: classes (0 and 1 where ``classes`` is 1) or void.
        classes: How many there are. Of one class only the pixels that are 1 are a mask.
        ignore_index: The value of void; None for none.

    Raises:
        ArgumentError: A number of classes or a void that is no whole number.
        InputError: A target of another shape or type, or that is no class.
    """
    checks.integer("classes", classes, minimum=1, maximum=65536)
    ignore_index = checks.void("ignore_index", ignore_index)
    if not isinstance(target, Tensor):
        raise InputError(f"A target must be a tensor, got {type(target).__name__}.")
    if target.ndim != 3 or target.is_floating_point():
        raise InputError(
            f"Expected a target (N, H, W) of integers, got {target.dtype} of the shape "
            f"{tuple(target.shape)}."
        )
    found = []
    for labels in target.long():
        void = None if ignore_index is None else labels == ignore_index
        shown = labels.unique()
        if ignore_index is not None:
            shown = shown[shown != ignore_index]
        wrong = shown[(shown < 0) | (shown >= max(classes, 2))]
        if len(wrong):
            raise InputError(
                f"The target holds {int(wrong[0])}, which is no class: they are 0 to "
                f"{max(classes, 2) - 1}. Give its void as ignore_index=, or the model more classes."
            )
        if classes == 1:
            shown = shown[shown == 1]
        masks = (labels == shown[:, None, None]).float()
        valid = None if void is None or not void.any() else (~void).float()
        found.append(MaskTargets(masks, shown - (1 if classes == 1 else 0), valid))
    return found


class QueryLoss(nn.Module):
    """Cross-entropy of classes, and of masks at sampled points cross-entropy and Dice.

    Queries are matched with the masks that an image shows so that the sum of all costs is least
    (the Hungarian algorithm, of scipy); those that are left over learn the class "nothing". What
    was predicted in front of each query block learns the same, matched anew.

    >>> model = segzoo.EoMT("vit_tiny_patch16_224", classes=3, queries=10)
    >>> outputs = model.forward_queries(torch.rand(2, 3, 64, 64))
    >>> segzoo.losses.QueryLoss()(outputs, torch.randint(0, 3, (2, 64, 64))).shape
    torch.Size([])

    Args:
        ignore_index: The value of void in targets; None where all pixels count.
        class_weight: Weight of the cross-entropy of classes, in the loss and in the match.
        mask_weight: Weight of the cross-entropy of masks.
        dice_weight: Weight of Dice.
        nothing: Weight of the class "nothing" in the cross-entropy: most queries have it.
        class_weights: Of each class in the cross-entropy of classes, where those who found a class
            count so much; two for one class, that of what is not it (a factor of ``nothing``) and
            its own. None for equal ones. Masks count alike.
        points: How many of each mask; 12544 is 112 x 112.
        oversampled: Of how many times that number the unsure points are chosen.
        unsure: Share of the points that lie where a mask is unsure.

    Raises:
        ArgumentError: A value out of its range; when called, weights for another number of classes.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        nothing: float = 0.1,
        class_weights: Sequence[float] | None = None,
        points: int = 12544,
        oversampled: float = 3.0,
        unsure: float = 0.75,
    ) -> None:
        super().__init__()
        self.ignore_index = checks.void("ignore_index", ignore_index)
        self.class_weight = checks.number("class_weight", class_weight, minimum=0, maximum=1e6)
        self.mask_weight = checks.number("mask_weight", mask_weight, minimum=0, maximum=1e6)
        self.dice_weight = checks.number("dice_weight", dice_weight, minimum=0, maximum=1e6)
        self.nothing = checks.number("nothing", nothing, minimum=0, maximum=1e6)
        weights = weights_of_classes(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.points = checks.integer("points", points, minimum=1, maximum=10**7)
        self.oversampled = checks.number("oversampled", oversampled, minimum=1, maximum=100)
        self.unsure = checks.number("unsure", unsure, minimum=0, maximum=1)

    def forward(
        self,
        outputs: Queries,
        target: Tensor | Sequence[MaskTargets],
        *,
        reduce: Reduce | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss, summed over the final prediction and those in front of each block.

        Args:
            outputs: Of ``forward_queries``.
            target: ``(N, H, W)`` of classes and void, or what is to be found in each image: for
                panoptic and instance segmentation, where a class has several masks.
            reduce: Adds a tensor up over all ranks; None for one rank.
            generator: Draws the points, on the device of the outputs; None for torch's own.

        Returns:
            A scalar.

        Raises:
            InputError: Outputs and targets do not go together.
            MissingPackageError: scipy is not installed.
        """
        if isinstance(target, Tensor):
            classes = outputs.class_logits.shape[-1] - 1
            target = mask_targets(target, classes, ignore_index=self.ignore_index)
        _check(target, outputs)
        with full_precision(outputs.mask_logits.device):
            layers = [*outputs.layers, (outputs.mask_logits, outputs.class_logits)]
            sums = [self._sums(wide(m), wide(c), target, generator) for m, c in layers]
            count = sums[0].new_tensor(float(sum(len(item.classes) for item in target)))
            *each, total = reduced([*sums, count], reduce)
            return torch.stack([self._formula(item, total) for item in each]).sum()

    def _formula(self, sums: Tensor, masks: Tensor) -> Tensor:
        classes, weights, mask, dice = sums.unbind()
        of_masks = self.mask_weight * mask + self.dice_weight * dice
        of_classes = self.class_weight * classes / torch.where(weights > 0, weights, 1.0)
        return of_classes + of_masks / masks.clamp_min(1)

    def _sums(
        self,
        masks: Tensor,
        classes: Tensor,
        targets: Sequence[MaskTargets],
        generator: torch.Generator | None,
    ) -> Tensor:
        """Sums over queries and masks: of classes and their weights, of masks, and of Dice."""
        pairs = [
            self.match(mask, logits, target, generator=generator)
            for mask, logits, target in zip(masks, classes, targets, strict=True)
        ]
        return torch.stack(
            [
                *self._class_sums(classes, targets, pairs),
                *self._mask_sums(masks, targets, pairs, generator),
            ]
        )

    @torch.no_grad()
    def match(
        self,
        masks: Tensor,
        classes: Tensor,
        target: MaskTargets,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Which query learns which mask of an image: indices of both, of equal length.

        Args:
            masks: ``(Q, h, w)``, logits.
            classes: ``(Q, classes + 1)``, logits.
            target: What is to be found.
            generator: Draws the points.
        """
        points = drawn(1, self.points, masks, generator)
        found, true = values_at(masks, points), values_at(target.masks.to(masks), points)
        size = found.new_tensor(float(found.shape[1]))
        if target.valid is not None:
            counted = counted_at(target.valid.to(masks)[None], points)
            size = counted.sum().clamp_min(1)
            true = true * counted
        else:
            counted = None
        as_true, as_false = F.softplus(-found), F.softplus(found)
        probability = found.sigmoid()
        if counted is not None:
            as_false, probability = as_false * counted, probability * counted
            cross = (as_true / size) @ true.T + (as_false / size) @ (counted - true).T
        else:
            cross = (as_true / size) @ true.T + (as_false / size) @ (1 - true).T
        overlap = 2 * probability @ true.T + 1
        dice = 1 - overlap / (probability.sum(1)[:, None] + true.sum(1) + 1)
        chosen = -classes.softmax(-1)[:, target.classes.long()]  # small integers would be a mask
        cost = self.mask_weight * cross + self.class_weight * chosen + self.dice_weight * dice
        worst = torch.finfo(cost.dtype).max
        cost = cost.nan_to_num(nan=worst, posinf=worst, neginf=worst)
        rows, columns = _assign(cost)
        return rows.to(masks.device), columns.to(masks.device)

    def _class_sums(
        self,
        classes: Tensor,
        targets: Sequence[MaskTargets],
        pairs: Sequence[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        nothing = classes.shape[-1] - 1
        wanted = torch.full(classes.shape[:2], nothing, device=classes.device)
        known = classes.new_ones(len(classes), 1)
        for i, (target, (queries, found)) in enumerate(zip(targets, pairs, strict=True)):
            wanted[i, queries] = target.classes[found].to(wanted)
            if target.valid is not None and not target.valid.any():
                known[i] = 0  # an image of nothing but void says nothing, not "nothing"
        weights = self._weights(classes)[wanted] * known
        each = F.cross_entropy(classes.flatten(0, 1), wanted.flatten(), reduction="none")
        return (weights.flatten() * each).sum(), weights.sum()

    def _weights(self, classes: Tensor) -> Tensor:
        """The weight of each class, and that of "nothing"."""
        count = classes.shape[-1] - 1
        # In single precision, as transformers has them.
        weights = torch.ones(count + 1, device=classes.device, dtype=torch.float32)
        weights[-1] = self.nothing
        if self.class_weights is not None:
            wanted = max(count, 2)
            if len(self.class_weights) != wanted:
                raise ArgumentError(
                    f"class_weights must have one weight for each of {wanted} classes, got "
                    f"{len(self.class_weights)}."
                )
            weights[:-1] = self.class_weights[-count:]
            if count == 1:
                weights[-1] *= self.class_weights[0]
        return weights.to(classes)

    def _mask_sums(
        self,
        masks: Tensor,
        targets: Sequence[MaskTargets],
        pairs: Sequence[tuple[Tensor, Tensor]],
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        found = torch.cat([mask[queries] for mask, (queries, _) in zip(masks, pairs, strict=True)])
        if not len(found):  # all of it void, or nothing of the one class
            return found.sum(), found.sum()
        true = torch.cat(
            [item.masks[index].to(masks) for item, (_, index) in zip(targets, pairs, strict=True)]
        )
        valid = _valid(targets, pairs, true)
        points = unsure_points(
            found,
            valid,
            self.points,
            oversampled=self.oversampled,
            unsure=self.unsure,
            generator=generator,
        )
        logits, labels = values_at(found, points), values_at(true, points)
        cross = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        probability = logits.sigmoid()
        if valid is None:
            each = cross.mean(1)
        else:
            counted = counted_at(valid, points)
            each = (cross * counted).sum(1) / counted.sum(1).clamp_min(1)
            probability, labels = probability * counted, labels * counted
        overlap = 2 * (probability * labels).sum(1) + 1
        dice = 1 - overlap / (probability.sum(1) + labels.sum(1) + 1)
        return each.sum(), dice.sum()

    def extra_repr(self) -> str:
        """The weights, as modules print them."""
        names = ("ignore_index", "class_weight", "mask_weight", "dice_weight", "nothing", "points")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def _check(targets: Any, outputs: Queries) -> None:
    """Raise for what cannot be found by queries, or not by these."""
    if not isinstance(targets, Sequence) or not all(isinstance(x, MaskTargets) for x in targets):
        raise InputError(
            "Expected a target (N, H, W) of integers, or a list of MaskTargets, one for each "
            f"image; got {checks.shown(targets)}."
        )
    if len(targets) != len(outputs.mask_logits):
        raise InputError(
            f"There are targets for {len(targets)} images, and queries of "
            f"{len(outputs.mask_logits)}."
        )
    largest = outputs.class_logits.shape[-1] - 2  # the last is "nothing", which no mask is
    sizes = {item.masks.shape[-2:] for item in targets}
    sizes |= {item.valid.shape for item in targets if item.valid is not None}
    for item in targets:
        masks, classes = item.masks, item.classes
        whole = not (classes.is_floating_point() or classes.is_complex())
        if masks.ndim != 3 or classes.shape != masks.shape[:1] or not whole:
            raise InputError(
                "MaskTargets must have masks (T, H, W) and as classes T integers, got "
                f"{tuple(masks.shape)} and {tuple(classes.shape)} of {classes.dtype}."
            )
        if len(sizes) > 1:
            raise InputError(
                "The masks of a batch, and valid, must be of one size (H, W), got "
                f"{' and '.join(map(str, sorted(map(tuple, sizes))))}."
            )
        # They go to the CPU for the match in any case.
        wrong = classes[(classes < 0) | (classes > largest)]
        if len(wrong):
            raise InputError(
                f"MaskTargets hold the class {wrong[0].item()}, and the queries tell 0 to "
                f"{largest}."
            )


def _valid(
    targets: Sequence[MaskTargets], pairs: Sequence[tuple[Tensor, Tensor]], true: Tensor
) -> Tensor | None:
    """What counts, of each matched mask; None where everything does."""
    if all(item.valid is None for item in targets):
        return None
    return torch.cat(
        [
            true.new_ones(len(index), *true.shape[1:])
            if item.valid is None
            else item.valid.to(true).expand(len(index), -1, -1)
            for item, (_, index) in zip(targets, pairs, strict=True)
        ]
    )


def _assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    optimize: Any = load_package("scipy.optimize", extra="train")
    rows, columns = optimize.linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows, dtype=torch.long), torch.as_tensor(columns, dtype=torch.long)
