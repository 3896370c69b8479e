"""What is called in training, and the loss of what it gives: asked of the model.

A model answers with logits of pixels, or with queries, each of which is a mask with its class. Who
has ``forward_queries`` is trained by its queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..architectures.base import SegmentationModel
from ..architectures.heads import Outputs
from ..architectures.pixel_scores import PixelScores
from ..architectures.query_heads import Queries
from ..errors import ArgumentError
from ..losses import QueryLoss, SegmentationLoss, outputs_loss
from ..losses.sums import Reduce
from ..nn.sharing import in_eval_mode
from .recipe import Recipe

#: Side of the images that unused parameters are looked for with.
SIDE = 64
#: Losses of pixels that queries have not; see ``recipe``.
_OF_PIXELS = ("focal", "boundary", "lovasz", "label_smoothing")
#: How fast masks of attention are given up within a block's time (appendix of the EoMT paper).
_POWER = 0.9


@runtime_checkable
class AnswersQueries(Protocol):
    """A model that is trained by its queries, such as :class:`segzoo.EoMT`."""

    @property
    def query_blocks(self) -> int:
        """How many blocks the queries pass."""

    def forward_queries(
        self, image: Tensor, *, attention_mask_probability: float | Sequence[float] = 0.0
    ) -> Queries:
        """Normalised images -> masks and classes, in training mode those of each block too."""


@runtime_checkable
class AnswersSeveral(Protocol):
    """A model that answers several questions by name, such as :class:`segzoo.MultiHead`.

    Its ``heads`` are no part of the protocol: from Python 3.12 on what a module keeps among its
    parts is nothing that a protocol looks for.
    """

    def answers(self, image: Tensor, *, maps: list[Tensor] | None = None) -> dict[str, Tensor]:
        """The logits of each head by its name."""

    def single(self, head: str) -> SegmentationModel:
        """A model of one head, on the same weights."""


class Objective(nn.Module):
    """A model as it is called in training.

    Args:
        model: Of segzoo.
        loss: Of what it gives.
    """

    model: SegmentationModel

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def tensors(self, outputs: Any) -> list[Tensor]:
        """What it gives, without structure."""
        found = [outputs] if isinstance(outputs, Tensor) else []
        if isinstance(outputs, dict):
            outputs = tuple(outputs.values())
        if isinstance(outputs, (list, tuple)):
            found += [tensor for item in outputs for tensor in self.tensors(item)]
        return found


class AllHeads(Objective):
    """A model that gives whatever it was built to answer of pixels.

    Args:
        model: Of segzoo.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__(model)
        config = model.config
        self.more = bool(
            config.deep_supervision or config.auxiliary_stride or config.classification
        )

    def forward(self, image: Tensor, maps: list[Tensor] | None = None) -> Outputs:
        """Logits, and what other heads say; from the encoder's maps where they are there."""
        if maps is not None:
            outputs = self.model.forward_heads(image, maps=maps)
            return outputs if self.more else Outputs(outputs.logits, {}, None)
        return (
            self.model.forward_heads(image) if self.more else Outputs(self.model(image), {}, None)
        )


class AllQueries(Objective):
    """A model that gives its queries.

    Args:
        model: Of segzoo, an :class:`AnswersQueries`.
    """

    def forward(self, image: Tensor, chances: Sequence[float] = ()) -> Queries:
        """Masks and classes, those in front of each block too."""
        model: Any = self.model
        chances = chances or [0.0] * model.query_blocks
        found: Queries = model.forward_queries(image, attention_mask_probability=chances)
        return found


def called(model: SegmentationModel) -> Objective:
    """A model as it is called in training."""
    return AllQueries(model) if isinstance(model, AnswersQueries) else AllHeads(model)


def mask_chances(blocks: int, progress: float) -> list[float]:
    """How probable masks of attention are in each query block: first in all, at the end in none.

    Kerssies et al., 2025, section 3.3 ("mask annealing"): one block after the other gives them up,
    each within an equal share of the training, with a polynomial of 0.9; one such share comes
    before and one after.

    >>> [round(chance, 2) for chance in mask_chances(2, 0.375)]
    [0.54, 1.0]

    Args:
        blocks: How many there are.
        progress: The share of the training that is behind, 0 to 1.
    """
    place = progress * (blocks + 2)
    shares = [min(max(place - (block + 1), 0.0), 1.0) for block in range(blocks)]
    return [float((1.0 - share) ** _POWER) for share in shares]


def check_losses(model: SegmentationModel, recipe: Recipe) -> None:
    """Raise where one mask for each image, or the recipe, is not what a model can learn by.

    Raises:
        ArgumentError: A model of several heads, each of which has labels of its own, of outputs
            that are no logits, or without a parameter that learns; weights for another number of
            classes; or of a model of queries a loss of pixels, or features that are to be kept.
    """
    _check_answers(model)
    classes = max(model.classes, 2)
    weights = recipe.class_weights
    if isinstance(weights, tuple) and len(weights) != classes:
        raise ArgumentError(
            f"class_weights has {len(weights)} weights, and there are {classes} classes. Give one "
            "for each, or 'balanced'."
        )
    learns = {id(item) for item in model.parameters() if item.requires_grad}
    if recipe.freeze_epochs:
        learns -= {id(item) for item in model.encoder.parameters()}
    if not learns:
        where = " while the encoder is frozen (freeze_epochs)" if recipe.freeze_epochs else ""
        raise ArgumentError(
            f"No parameter of the model would learn{where}: all of them have requires_grad=False."
        )
    if not isinstance(model, AnswersQueries):
        return
    asked = [name for name in _OF_PIXELS if getattr(recipe, name)]
    asked += ["keep_features"] if recipe.keep_features else []
    if asked:
        raise ArgumentError(
            f"{type(model).__name__} is trained by its queries: {', '.join(asked)} cannot be had "
            "there. What counts are cross_entropy (of classes and masks), dice (of masks) and "
            "class_weights."
        )


def _check_answers(model: SegmentationModel) -> None:
    """Raise where the answers of a model are not logits of one question."""
    heads: list[str] = []
    if isinstance(model, AnswersSeveral):
        heads = [name for name, _ in model.get_submodule("heads").named_children()]
    if len(heads) > 1:
        raise ArgumentError(
            f"This {type(model).__name__} has {len(heads)} heads ({', '.join(heads)}), and a mask "
            "teaches one of them. Train head by head, on a frozen encoder so that the others keep "
            "their answers: model.freeze_encoder(), then segzoo.train(model.single("
            f"{heads[0]!r}), data, out=...), which trains the weights of this model. Then save the "
            "whole with model.save_pretrained."
        )
    if not model.gives_logits:
        raise ArgumentError(
            f"This {type(model).__name__} squeezes its outputs into a range, so they are no "
            "logits, and every loss here takes logits. Build it without that range "
            "(y_range=None), or train it in a loop of your own with a loss that fits."
        )


def make_loss(
    model: nn.Module, recipe: Recipe, class_weights: Sequence[float] | None, void: int | None
) -> SegmentationLoss | QueryLoss:
    """The loss of a recipe."""
    if isinstance(model, AnswersQueries):
        plain = QueryLoss()
        return QueryLoss(
            ignore_index=void,
            class_weight=recipe.cross_entropy * plain.class_weight,
            mask_weight=recipe.cross_entropy * plain.mask_weight,
            dice_weight=recipe.dice * plain.dice_weight,
            class_weights=class_weights,
        )
    return SegmentationLoss(
        ignore_index=void,
        cross_entropy=recipe.cross_entropy,
        dice=recipe.dice,
        focal=recipe.focal,
        focal_gamma=recipe.focal_gamma,
        boundary=recipe.boundary,
        lovasz=recipe.lovasz,
        class_weights=class_weights,
        label_smoothing=recipe.label_smoothing,
    )


def loss_of_outputs(
    loss: SegmentationLoss | QueryLoss,
    outputs: Outputs | Queries,
    target: Tensor,
    *,
    auxiliary: float,
    reduce: Reduce | None,
) -> Tensor:
    """The loss of what an :class:`Objective` gave."""
    if isinstance(outputs, Queries):
        assert isinstance(loss, QueryLoss)
        found: Tensor = loss(outputs, target, reduce=reduce)
        return found
    return outputs_loss(loss, outputs, target, auxiliary=auxiliary, reduce=reduce)


def counted_pixels(target: Tensor, void: int | None, class_weights: Tensor | None) -> Tensor:
    """What cross-entropy is divided by: labelled pixels, each with the weight of its class.

    Args:
        target: ``(N, H, W)`` of classes.
        void: Its value, or None.
        class_weights: One for each class, or None for equal ones.

    Returns:
        A scalar in float64, on the target's device.
    """
    target = target.long()  # of uint8 a void of -1 would be 255
    labelled = target.flatten() if void is None else target[target != void]
    if class_weights is None:
        return torch.tensor(labelled.numel(), dtype=torch.float64, device=target.device)
    # What is no class is for the loss to refuse.
    counts = labelled.clamp_min(0).bincount(minlength=len(class_weights))
    counts = counts[: len(class_weights)]
    return counts.double() @ class_weights.to(counts.device, torch.float64)


def logits_of(outputs: Outputs | Queries, size: tuple[int, int]) -> Tensor:
    """What an :class:`Objective` gave, as logits of pixels: a teacher's are compared with those.

    Of queries those that the model gives where it only predicts; of images that patches do not
    divide, with masks that are resized from the image alone, without what pads it.

    Args:
        outputs: What it gave.
        size: ``(height, width)`` of the images.
    """
    if not isinstance(outputs, Queries):
        return outputs.logits
    masks, classes = outputs.mask_logits.float(), outputs.class_logits.float()
    logits: Tensor = PixelScores(classes.shape[-1] - 1)(masks, classes, size, size)
    return logits


def has_unused(heads: Objective) -> bool:
    """Whether there are trainable parameters that no output depends on: asked of the gradients.

    ``DistributedDataParallel`` waits for ever for the gradients of such, unless it is told.
    """
    left = [item for item in heads.parameters() if item.requires_grad]
    with in_eval_mode(heads) as still, torch.enable_grad():
        # A backbone of one size would warn of another.
        sides = heads.model.encoder.size_rule.fixed or (SIDE, SIDE)
        size = (2, heads.model.in_channels, *sides)
        outputs = still(torch.zeros(size, device=left[0].device, dtype=left[0].dtype))
        total = torch.stack([item.sum() for item in heads.tensors(outputs)]).sum()
        reached = torch.autograd.grad(total, left, allow_unused=True)
    return any(item is None for item in reached)
