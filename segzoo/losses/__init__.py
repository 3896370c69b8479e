"""Losses for segmentation: exact with void pixels, uneven batches and several ranks.

Each takes logits ``(N, K, H, W)`` and a target ``(N, H, W)`` of classes, counts nothing where the
target is ``ignore_index``, and is computed in float32 (float64 for float64 logits), also under
autocast. A batch without a counted pixel has the loss 0 and zero gradients. One logit (K = 1) means
two classes, told apart by a sigmoid: a softmax over ``(0, x)``, so every loss is defined for it.

Every loss is a formula of a few sums over pixels or images. ``reduce`` adds those sums up over all
ranks before the formula is applied: each rank has the loss of the whole global batch, and the mean
of the ranks' gradients, which ``DistributedDataParallel`` takes, is the gradient of that loss.
:func:`sum_over_ranks` is such a function. The mean of the ranks' own losses is another number
wherever void, or the size of the batches, is uneven.

>>> logits, target = torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 1], [2, 255]]])
>>> round(float(segzoo.losses.cross_entropy(logits, target, ignore_index=255)), 4)  # log 4
1.3863
"""

from .boundary import boundary_loss
from .combined import SegmentationLoss, outputs_loss
from .distillation import distillation_loss
from .overlap import dice_loss, lovasz_softmax
from .per_pixel import balanced_weights, cross_entropy, focal_loss
from .queries import MaskTargets, QueryLoss, mask_targets
from .sums import sum_over_ranks

__all__ = [
    "MaskTargets",
    "QueryLoss",
    "SegmentationLoss",
    "balanced_weights",
    "boundary_loss",
    "cross_entropy",
    "dice_loss",
    "distillation_loss",
    "focal_loss",
    "lovasz_softmax",
    "mask_targets",
    "outputs_loss",
    "sum_over_ranks",
]
