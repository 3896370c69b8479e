"""What can be found out before a training: a learning rate, and how much fits into memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from ..architectures.base import SegmentationModel
from ..devices import lacks_memory
from ..errors import TrainingError
from .learner import Batch, Learner, Settled
from .processes import Processes
from .recipe import Recipe
from .sharded_learner import learner_of
from .state import random_state, set_random_state
from .teacher import Teacher

#: The rates that are tried, from the least to the greatest, and in how many steps.
_LEAST, _GREATEST, _STEPS = 1e-6, 1.0, 80
_MOMENTUM = 0.9
#: How much of the smoothed loss is what it was before.
_MEMORY = 0.9
#: The loss has run away when it is so many times its least.
_AWAY = 4.0
#: A rate that much below where the loss is least still falls, and steadily.
_BELOW = 10.0
#: Images of a batch where nothing is known of the memory.
PLAIN_BATCH = 8
_MOST = 1024
#: The share of a device's memory that a batch leaves free.
_LEFT = 0.05


def find_learning_rate(
    model: SegmentationModel,
    recipe: Recipe,
    settled: Settled,
    processes: Processes,
    batches: Iterator[Batch],
    *,
    ignore_index: int | None,
    teacher: Teacher | None = None,
) -> tuple[float, list[tuple[float, float]]]:
    """The learning rate range test of Smith, "Cyclical Learning Rates", 2017, section 3.3.

    The rate grows with every step until the loss runs away; a tenth of the rate where the smoothed
    loss is least is taken. Weights, statistics and random numbers are afterwards what they were.

    Args:
        model: What is trained.
        recipe: How.
        settled: What is known of what the recipe leaves open.
        processes: Who trains along.
        batches: As many as are wanted.
        ignore_index: Void in masks.
        teacher: Whose answers are learned too.

    Returns:
        The rate, and rates with their smoothed losses.

    Raises:
        TrainingError: The loss never fell.
    """
    before = copy.deepcopy(model.state_dict())
    random = random_state(processes.device)
    once = replace(recipe, ema=None, accumulate=1)
    learner = learner_of(
        model,
        once,
        replace(settled, learning_rate=1.0),
        processes,
        ignore_index=ignore_index,
        teacher=teacher,
    )
    learner.begin(frozen=False)
    smooth, curve = 0.0, []
    try:
        for step, batch in zip(range(_STEPS), batches, strict=False):
            rate = _LEAST * (_GREATEST / _LEAST) ** (step / (_STEPS - 1))
            loss = float(learner.update([batch], rate, _MOMENTUM))
            if not math.isfinite(loss):
                break
            smooth = _MEMORY * smooth + (1 - _MEMORY) * loss
            curve.append((rate, smooth / (1 - _MEMORY ** (step + 1))))
            if curve[-1][1] > _AWAY * min(value for _, value in curve):
                break
    finally:
        learner.release()
        model.load_state_dict(before)
        set_random_state(random, processes.device)
    return chosen_rate(curve), curve


def chosen_rate(curve: Sequence[tuple[float, float]]) -> float:
    """A tenth of the rate where the loss is least.

    Raises:
        TrainingError: The loss never fell.
    """
    if curve:
        rate, least = min(curve, key=lambda item: item[1])
        if least < curve[0][1]:
            return float(f"{rate / _BELOW:.2g}")
    raise TrainingError(
        "No learning rate was found at which the loss falls. Give learning_rate a number, such as "
        "0.001, and look at the data: do masks and images belong together?"
    )


def find_batch_size(
    model: SegmentationModel,
    recipe: Recipe,
    settled: Settled,
    processes: Processes,
    sample: Batch,
    *,
    most: int,
    ignore_index: int | None,
    teacher: Teacher | None = None,
) -> int:
    """The largest batch, of powers of two, that a CUDA device has memory for.

    Steps of 2, 4, 8, ... images are taken until one fails, or leaves next to nothing free: memory
    comes in pieces that do not always fit, and several processes need room to exchange gradients.
    Each process tries for itself, and the smallest counts. Other devices take :data:`PLAIN_BATCH`.

    Args:
        sample: A batch of one image, of the training's size.
        most: No more than that: the images there are.
        teacher: Who is asked in each step, too.

    Raises:
        TrainingError: Not even two images fit.
    """
    device = processes.device
    if device.type != "cuda":
        return min(PLAIN_BATCH, most)
    before = copy.deepcopy(model.state_dict())
    random = random_state(device)
    weights = sum(item.numel() * item.element_size() for item in model.parameters())
    exchanged = weights if processes.count > 1 else 0

    def fits(size: int) -> bool:
        learner = Learner(
            model, recipe, settled, processes.alone(), ignore_index=ignore_index, teacher=teacher
        )
        learner.begin(frozen=False)
        batch = (
            sample[0].expand(size, *sample[0].shape[1:]),
            sample[1].expand(size, *sample[1].shape[1:]),
        )
        try:
            for _ in range(2):  # the optimiser's state comes with the first step
                learner.update([batch], 0.0, _MOMENTUM)
            torch.cuda.synchronize(device)
            free, total = torch.cuda.mem_get_info(device)
            return free >= _LEFT * total + exchanged
        finally:
            del learner
            _forget(model)

    fit = doubled(fits, min(most, _MOST))
    model.load_state_dict(before)
    set_random_state(random, device)
    fit = int(-processes.largest(-fit))  # of all processes the one with the least memory
    if fit == 0 and most > 1:
        raise TrainingError(
            "Not even two images fit into the memory of the device. Take smaller ones (size= or "
            "crop=), a smaller encoder, or configure_training(checkpoint=True)."
        )
    return max(fit, 1)


def doubled(fits: Callable[[int], bool], most: int) -> int:
    """The largest of 2, 4, 8, ... that fits; 0 where not even 2 do.

    Args:
        fits: Tries a size. A size that fails for want of memory does not fit; so does a larger one
            that fails otherwise, since libraries have other words for it (cuDNN's workspace,
            tensors of more than 2^31 values).
        most: No more than that.

    Raises:
        RuntimeError: Two images fail, and not for want of memory.
    """
    size, found = 2, 0
    while size <= most:
        try:
            if not fits(size):
                break
        except (MemoryError, RuntimeError) as error:
            if not found and not lacks_memory(error):
                raise
            break
        found, size = size, size * 2
    return found


def _forget(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None
    torch.cuda.empty_cache()
