"""A short training loop: crops of one photograph, cross-entropy and Dice, AdamW, OneCycle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..architectures.base import SegmentationModel
from .scene import Scene


def train(
    model: SegmentationModel,
    scene: Scene,
    *,
    steps: int,
    batch_size: int = 8,
    crop: int = 128,
    learning_rate: float = 1e-3,
    encoder_scale: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> tuple[float, ...]:
    """Fit a model to a scene, in place.

    Args:
        model: Its classes are the scene's; on any device.
        scene: What to learn from.
        steps: Number of optimiser steps, 2 or more.
        batch_size: Crops in each step.
        crop: Side of a crop in pixels; cut to the scene where that is smaller.
        learning_rate: The peak of the OneCycle schedule (Smith and Topin, 2018).
        encoder_scale: See :meth:`~segzoo.SegmentationModel.parameter_groups`; below 1 for an
            encoder that has learned already.
        seed: Seed of the crops.
        progress: Show a bar on stderr.

    Returns:
        The loss at each step.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    groups = model.parameter_groups(learning_rate, encoder_scale=encoder_scale)
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=steps
    )
    photo = model.normalization(scene.photo)
    losses = []
    model.train()
    with tqdm(total=steps, desc="training", disable=not progress) as bar:
        for _ in range(steps):
            images, truths = _batch(photo, scene.truth, batch_size, crop, generator)
            loss = segmentation_loss(model(images.to(device)), truths.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            bar.update()
    model.eval()
    return tuple(losses)


def segmentation_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus one minus the mean soft Dice of the classes (Milletari et al., 2016).

    Args:
        logits: ``(N, classes, H, W)``.
        truth: ``(N, H, W)`` of class numbers.
    """
    probability = logits.softmax(dim=1)
    target = F.one_hot(truth, logits.shape[1]).permute(0, 3, 1, 2)
    overlap = (probability * target).sum(dim=(0, 2, 3))
    total = (probability + target).sum(dim=(0, 2, 3))
    dice = (2 * overlap + 1) / (total + 1)
    return F.cross_entropy(logits, truth) + 1 - dice.mean()


def _batch(
    photo: Tensor, truth: Tensor, size: int, crop: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random crops, each in one of the eight ways to turn and mirror a square."""
    height, width = truth.shape
    side = min(crop, height, width)
    images: list[Tensor] = []
    truths: list[Tensor] = []
    for _ in range(size):
        top, left, turns, mirror = (
            int(torch.randint(end, (), generator=generator))
            for end in (height - side + 1, width - side + 1, 4, 2)
        )
        window = (..., slice(top, top + side), slice(left, left + side))
        for source, crops in ((photo, images), (truth, truths)):
            cut = source[window].rot90(turns, (-2, -1))
            crops.append(cut.flip(-1) if mirror else cut)
    return torch.stack(images), torch.stack(truths)
