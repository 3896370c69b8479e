"""To learn from another model's answers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..nn.full_precision import full_precision
from .sums import Reduce, check, reduced, two_classes


def distillation_loss(
    logits: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 2.0,
    ignore_index: int | None = None,
    reduce: Reduce | None = None,
) -> Tensor:
    """How far a model's answers are from a teacher's: the mean over the pixels that are not void.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2: the
    Kullback-Leibler divergence of both softmaxes at a temperature, times its square, so that its
    gradient has the size of the cross-entropy's at every temperature.

    >>> logits = torch.randn(2, 3, 8, 8)
    >>> target = torch.zeros(2, 8, 8, dtype=torch.long)
    >>> float(segzoo.losses.distillation_loss(logits, logits, target))
    0.0

    Args:
        logits: ``(N, K, H, W)``, floating point.
        teacher: Logits of that shape, which get no gradient.
        target: ``(N, H, W)``, the labels: they only say which pixels are void.
        temperature: 0.001 to 1000; the higher, the more counts what the teacher thinks of the
            classes that it does not choose.
        ignore_index: The value of void; None where all pixels count.
        reduce: Adds a tensor up over all ranks; None for one rank.

    Returns:
        A scalar, 0 or more.

    Raises:
        InputError: Shapes or types that do not go together.
        ArgumentError: A temperature or a void out of its range.
    """
    degrees = checks.number("temperature", temperature, minimum=1e-3, maximum=1e3)
    check(logits, target, ignore_index)
    if not isinstance(teacher, Tensor) or teacher.shape != logits.shape:
        got = tuple(teacher.shape) if isinstance(teacher, Tensor) else type(teacher).__name__
        raise InputError(
            f"Logits of the shape {tuple(logits.shape)} need a teacher's of the same shape, got "
            f"{got}."
        )
    with full_precision(logits.device):
        learned = (two_classes(logits) / degrees).log_softmax(dim=1)
        taught = (two_classes(teacher.detach()) / degrees).log_softmax(dim=1).to(learned)
        each = F.kl_div(learned, taught, reduction="none", log_target=True).sum(dim=1)
        counted = each.new_ones(each.shape)
        if ignore_index is not None:
            counted = (target.long() != ignore_index).to(each.dtype)
        sums = (counted * each).sum(), counted.sum()
        above, below = reduced(sums, reduce)
        return degrees**2 * above / below.clamp_min(1)
