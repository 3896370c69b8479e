"""From queries to the segments of a picture: panoptic, and instance by instance.

The rules are those of Cheng et al., "Masked-attention Mask Transformer for Universal Image
Segmentation", 2022, in the form that transformers gives them for EoMT.

>>> model = segzoo.EoMT("vit_tiny_patch16_224", classes=3, queries=10).eval()
>>> image = torch.rand(1, 3, 64, 48)
>>> found = segzoo.postprocess.panoptic(model.forward_queries(image), size=(64, 48))
>>> found[0].ids.shape
torch.Size([64, 48])
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import checks
from .errors import ArgumentError, InputError

_LONGEST = 2**20


class HasQueries(Protocol):
    """Masks and classes of queries: :class:`segzoo.Queries`, or anything like it."""

    @property
    def mask_logits(self) -> Tensor:
        """``(N, queries, h, w)``, before a sigmoid."""

    @property
    def class_logits(self) -> Tensor:
        """``(N, queries, classes + 1)``, before a softmax; the last is "nothing"."""


class Segment(NamedTuple):
    """One segment of a panoptic picture.

    Attributes:
        id: Its number in the map of segments.
        label: Its class.
        score: Probability of that class, 0 to 1; of a merged segment that of its first query.
    """

    id: int
    label: int
    score: float


class Panoptic(NamedTuple):
    """A picture as segments that do not overlap.

    Attributes:
        ids: ``(H, W)``, int64: the segment of each pixel, -1 where there is none.
        segments: One for each id, from 0 on.
    """

    ids: Tensor
    segments: tuple[Segment, ...]


class Instances(NamedTuple):
    """The instances in a picture, in the order of their queries; they may overlap.

    Attributes:
        masks: ``(n, H, W)``, bool.
        labels: ``(n,)``, int64: the class of each.
        scores: ``(n,)``, float32 (float64 where the logits are): probability of the class times
            the mean of the mask's, 0 to 1.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor


@torch.no_grad()
def panoptic(
    queries: HasQueries,
    *,
    size: tuple[int, int],
    threshold: float = 0.8,
    mask_threshold: float = 0.5,
    overlap_threshold: float = 0.8,
    stuff: Collection[int] = (),
) -> list[Panoptic]:
    """Each pixel to at most one query.

    Of the queries that are sure of a class each pixel goes to the one with the largest product of
    class and mask probability. A query that keeps too little of its mask that way is dropped.

    Args:
        queries: What :meth:`segzoo.EoMT.forward_queries` gave.
        size: ``(height, width)`` of the images.
        threshold: Queries whose class is less probable are left out, 0 to 1.
        mask_threshold: Pixels that are less probable are of no segment, 0 to 1.
        overlap_threshold: The share of its mask that a segment must have kept, 0 to 1.
        stuff: Classes without instances: all segments of such a class are one.

    Returns:
        One for each image.

    Raises:
        ArgumentError: A threshold, size or class that cannot be.
        InputError: Tensors that are no masks and classes of queries.
    """
    threshold = checks.number("threshold", threshold, minimum=0, maximum=1)
    mask_threshold = checks.number("mask_threshold", mask_threshold, minimum=0, maximum=1)
    overlap = checks.number("overlap_threshold", overlap_threshold, minimum=0, maximum=1)
    height, width = _size(size)
    masks, classes = _tensors(queries)
    nothing = classes.shape[-1] - 1
    merged = _classes("stuff", stuff, nothing)
    scores, labels = classes.softmax(dim=-1).max(dim=-1)
    found = []
    for i in range(masks.shape[0]):
        kept = (labels[i] != nothing) & (scores[i] > threshold)
        ids = masks.new_full((height, width), -1, dtype=torch.int64)
        segments: list[Segment] = []
        if bool(kept.any()):
            shares = _resized(masks[i][kept], height, width).sigmoid()
            owners = (scores[i][kept][:, None, None] * shares).argmax(dim=0)
            first: dict[int, int] = {}
            pairs = zip(labels[i][kept].tolist(), scores[i][kept].tolist(), strict=True)
            for k, (label, score) in enumerate(pairs):
                own, mask = owners == k, shares[k] >= mask_threshold
                segment = own & mask
                if not bool(segment.any()) or not float(own.sum() / mask.sum()) > overlap:
                    continue
                number = first.get(label, len(segments)) if label in merged else len(segments)
                ids[segment] = number
                if number == len(segments):
                    segments.append(Segment(number, label, score))
                    first[label] = number
        found.append(Panoptic(ids, tuple(segments)))
    return found


@torch.no_grad()
def instances(
    queries: HasQueries, *, size: tuple[int, int], threshold: float = 0.8
) -> list[Instances]:
    """Each query that is sure enough of its class and its mask, as an instance.

    Args:
        queries: What :meth:`segzoo.EoMT.forward_queries` gave.
        size: ``(height, width)`` of the images.
        threshold: Instances with a smaller score are left out, 0 to 1.

    Returns:
        One for each image.

    Raises:
        ArgumentError: A threshold or size that cannot be.
        InputError: Tensors that are no masks and classes of queries.
    """
    threshold = checks.number("threshold", threshold, minimum=0, maximum=1)
    height, width = _size(size)
    masks, classes = _tensors(queries)
    scores, labels = classes.softmax(dim=-1)[..., :-1].max(dim=-1)
    found = []
    for i in range(masks.shape[0]):
        # The mask's share is at most one: what fails here fails for good.
        sure = scores[i] >= threshold
        logits = _resized(masks[i][sure], height, width)
        inside = logits > 0
        area = inside.flatten(1).sum(dim=1)
        # A little more than the area, as in transformers: it may be zero.
        mean = (logits.sigmoid() * inside).flatten(1).sum(dim=1) / (area + 1e-6)
        score = scores[i][sure] * mean
        kept = (area > 0) & (score >= threshold)
        found.append(Instances(inside[kept], labels[i][sure][kept], score[kept]))
    return found


def _resized(masks: Tensor, height: int, width: int) -> Tensor:
    """``(n, h, w)`` -> ``(n, height, width)``."""
    if not len(masks):
        return masks.new_zeros(0, height, width)
    found = F.interpolate(masks[None], (height, width), mode="bilinear", align_corners=False)
    return found[0]


def _size(size: Any) -> tuple[int, int]:
    sides = checks.sequence("size", size, _side, longest=2)
    if len(sides) != 2:
        raise ArgumentError(f"size must be (height, width), got {checks.shown(size)}.")
    return sides[0], sides[1]


def _side(name: str, value: Any) -> int:
    return checks.integer(name, value, minimum=1, maximum=_LONGEST)


def _classes(name: str, given: Collection[int], count: int) -> frozenset[int]:
    if not isinstance(given, Collection):
        raise ArgumentError(f"{name} must be a collection of classes, got {checks.shown(given)}.")
    return frozenset(checks.integer(name, item, minimum=0, maximum=count - 1) for item in given)


def _tensors(queries: HasQueries) -> tuple[Tensor, Tensor]:
    """Masks and classes, checked, in a precision to compute with."""
    masks, classes = (getattr(queries, f"{name}_logits", None) for name in ("mask", "class"))
    if not (isinstance(masks, Tensor) and isinstance(classes, Tensor)):
        raise InputError(
            "Expected what model.forward_queries(image) gives, or anything with mask_logits and "
            f"class_logits; got {type(queries).__name__}."
        )
    if (
        not (masks.is_floating_point() and classes.is_floating_point())
        or masks.ndim != 4
        or classes.ndim != 3
        or masks.shape[:2] != classes.shape[:2]
        or classes.shape[-1] < 2
    ):
        raise InputError(
            "Expected mask_logits (N, queries, h, w) and class_logits (N, queries, classes + 1), "
            f"got {tuple(masks.shape)} of {masks.dtype} and {tuple(classes.shape)} of "
            f"{classes.dtype}."
        )
    # A probability of NaN is above no threshold: the picture would be without segments.
    if bool(masks.isnan().any()) or bool(classes.isnan().any()):
        raise InputError(
            "The logits of the queries are NaN: the model's weights are not finite (a training "
            "that diverged), or its images were not."
        )
    return _wide(masks), _wide(classes)


def _wide(tensor: Tensor) -> Tensor:
    """In float32, unless it is float64: half precision has no number for the area of a mask."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
