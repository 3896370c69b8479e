"""Scores of masks: a meter that counts images as they come, and merges what others counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..errors import ArgumentError, InputError
from . import calibration as calibrated
from .boundary_f1 import boundary_f1
from .confusion import bootstrap, confusion_of, interval, mean, shares
from .score_values import Intervals as Intervals
from .score_values import Scores as Scores


@dataclass(frozen=True)
class _Image:
    """What is kept of an image: counts, so that images can be put together in any order.

    Attributes:
        name: None where nobody gave one.
        cells: The cells of its confusion matrix that are not 0, by their number, int64.
        pixels: What is in these cells, int64.
        boundaries: :func:`boundary_f1`, ``(K,)``, or ``(0,)``.
        bins: :func:`.calibration.bins_of`, or of no columns.
        likelihoods: :func:`.calibration.likelihoods`, or empty.
    """

    name: str | None
    cells: Tensor
    pixels: Tensor
    boundaries: Tensor
    bins: Tensor
    likelihoods: Tensor

    def counts(self, classes: int) -> Tensor:
        """Right, true and predicted pixels of each class, ``(3, classes)``."""
        rows, columns = self.cells // classes, self.cells % classes
        found = torch.zeros(3, classes, dtype=torch.int64)
        found[0].index_add_(0, rows, self.pixels * (rows == columns))
        found[1].index_add_(0, rows, self.pixels)
        found[2].index_add_(0, columns, self.pixels)
        return found


class ScoreMeter:
    """Counts images and computes their :class:`Scores`, the same in any order and on any ranks.

    >>> meter = segzoo.ScoreMeter(3, ignore_index=255)
    >>> meter.update(torch.zeros(1, 3, 8, 8), torch.full((1, 8, 8), 255), ["void"])
    >>> meter.compute().miou is None
    True

    Counts of every image are kept, some kilobytes each: for intervals, and so that an image that
    comes twice under one name, as from a sampler that pads the last batches of some ranks, counts
    once.

    Args:
        classes: How many classes masks have; 2 for a model of one logit.
        ignore_index: The value of void in targets; None where all pixels count.
        boundaries: Measure the F1 of boundaries too.
        calibration: Measure the calibration error and the temperature too, where logits come.

    Raises:
        ArgumentError: Fewer than two classes, or another value that cannot work.
    """

    def __init__(
        self,
        classes: int,
        *,
        ignore_index: int | None = None,
        boundaries: bool = True,
        calibration: bool = True,
    ) -> None:
        self.classes = checks.integer("classes", classes, minimum=2, maximum=65536)
        self.ignore_index = checks.void("ignore_index", ignore_index)
        self.boundaries = checks.flag("boundaries", boundaries)
        self.calibration = checks.flag("calibration", calibration)
        self._named: dict[str, _Image] = {}
        self._unnamed: list[_Image] = []

    def __len__(self) -> int:
        return len(self._named) + len(self._unnamed)

    @torch.no_grad()
    def update(self, predicted: Tensor, target: Tensor, names: Sequence[str] | None = None) -> None:
        """Count a batch of images.

        Args:
            predicted: Logits ``(N, K, H, W)``, floating point, or classes ``(N, H, W)``, integers.
            target: ``(N, H, W)``, integers: classes or ``ignore_index``.
            names: What each image is called. A name that was counted is not counted again.

        Raises:
            InputError: Shapes that do not go together, values that are no class, logits of which
                the largest of a pixel is no finite number (-inf for a class that cannot be is one
                that can be counted), or two images of one name that differ.
        """
        logits, top, classes = self._classes_of(predicted)
        self._check(classes, target, names)
        if logits is not None:
            check_finite(top, names)
        if not len(target):
            return
        target = target.to(classes.device).long()
        valid = torch.ones_like(target, dtype=torch.bool)
        if self.ignore_index is not None:
            valid = target != self.ignore_index
            target = target.masked_fill(~valid, 0)
        count = len(target)
        edges = torch.empty(count, 0, dtype=torch.float64)
        if self.boundaries:
            edges = boundary_f1(classes, target, valid, self.classes)
        bins = torch.empty(count, 3, 0, dtype=torch.int64)
        sums = torch.empty(count, 0, dtype=torch.float64)
        if self.calibration:
            bins = torch.zeros(count, 3, calibrated.BINS, dtype=torch.int64)
            sums = torch.zeros(count, calibrated.SUMS, dtype=torch.float64)
        if self.calibration and logits is not None:
            confidence = (top - logits.logsumexp(dim=1)).exp().clamp(0, 1)
            for i in range(count):
                bins[i] = calibrated.bins_of(confidence[i], classes[i] == target[i], valid[i])
                sums[i] = calibrated.likelihoods(logits[i], target[i], valid[i])
        for i in range(count):
            matrix = confusion_of(classes[i], target[i], valid[i], self.classes).flatten()
            cells = matrix.nonzero()[:, 0]
            name = None if names is None else str(names[i])
            self._add(_Image(name, cells, matrix[cells], edges[i], bins[i], sums[i]))

    def merge(self, other: ScoreMeter) -> None:
        """Count what another meter counted; images of the same name count once.

        Raises:
            ArgumentError: The other one counts other classes, has another void, or measures
                something else.
            InputError: Two images of one name differ.
        """
        for field in ("classes", "ignore_index", "boundaries", "calibration"):
            ours, theirs = getattr(self, field), getattr(other, field)
            if ours != theirs:
                raise ArgumentError(
                    f"The meters differ: {field} is {ours} here and {theirs} there."
                )
        for image in other._images():
            self._add(image)

    def compute(self, class_names: Sequence[str] | None = None) -> Scores:
        """The scores of all images so far.

        Args:
            class_names: One for each class, or None.

        Raises:
            ArgumentError: Names that are none.
        """
        if class_names is not None:
            class_names = checks.sequence("class_names", class_names, checks.text, longest=65536)
        images = self._images()
        total = torch.zeros(self.classes * self.classes, dtype=torch.int64)
        counts = torch.zeros(len(images), 3, self.classes, dtype=torch.int64)
        for i, image in enumerate(images):
            total[image.cells] += image.pixels
            counts[i] = image.counts(self.classes)
        return Scores(
            counts=tuple(map(tuple, total.view(self.classes, -1).tolist())),
            images=len(images),
            class_names=class_names,
            ignore_index=self.ignore_index,
            boundary_f1_by_class=self._boundaries(images),
            intervals=self._intervals(counts),
            **self._calibration(images),
        )

    def image_miou(self) -> dict[str, float | None]:
        """The mean IoU of each image by its name, over the classes that are there or predicted.

        An image without a name is called by its place; one of void has None.
        """
        found = {}
        for i, image in enumerate(self._images()):
            right, true, predicted = image.counts(self.classes).tolist()
            union = [t + p - r for r, t, p in zip(right, true, predicted, strict=True)]
            iou = [
                None if c == self.ignore_index else share
                for c, share in enumerate(shares(right, union))
            ]
            found[str(i) if image.name is None else image.name] = mean(iou)
        return found

    def state(self) -> dict[str, Tensor]:
        """All that was counted, as tensors: to be gathered from ranks, or saved.

        ``ScoreMeter.from_state(state)`` is a meter that counted the same.
        """
        images = self._images()
        options = [self.ignore_index is not None, self.boundaries, self.calibration]
        # Names of files may hold halves of characters: bytes that are no UTF-8.
        names = "\0".join(image.name or "" for image in images).encode(errors="surrogatepass")
        return {
            "options": torch.tensor([self.classes, self.ignore_index or 0, *map(int, options)]),
            "names": torch.frombuffer(bytearray(names or b"\0"), dtype=torch.uint8),
            "lengths": torch.tensor([len(image.cells) for image in images], dtype=torch.int64),
            **{
                field: torch.cat([getattr(image, field).flatten() for image in images])
                if images
                else torch.empty(0)
                for field in ("cells", "pixels", "boundaries", "bins", "likelihoods")
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ScoreMeter:
        """A meter that counted what another one gave with :meth:`state`."""
        classes, void, has_void, boundaries, measured = state["options"].tolist()
        meter = cls(
            classes,
            ignore_index=void if has_void else None,
            boundaries=bool(boundaries),
            calibration=bool(measured),
        )
        lengths = state["lengths"].tolist()
        if not lengths:
            return meter
        names = bytes(state["names"].tolist()).decode(errors="surrogatepass").split("\0")
        count = len(lengths)
        parts = zip(
            names,
            state["cells"].cpu().split(lengths),
            state["pixels"].cpu().split(lengths),
            state["boundaries"].cpu().view(count, -1),
            state["bins"].cpu().view(count, 3, -1),
            state["likelihoods"].cpu().view(count, -1),
            strict=False,
        )
        for name, *tensors in parts:
            meter._add(_Image(name or None, *tensors))
        return meter

    def _images(self) -> list[_Image]:
        """Those with names by name, for ranks come in any order; then the others."""
        return [self._named[name] for name in sorted(self._named)] + self._unnamed

    def _classes_of(self, predicted: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Logits of two classes or more (None for classes), the largest, and whose it is."""
        if not predicted.is_floating_point():
            return None, predicted, predicted.long()
        channels = predicted.shape[1] if predicted.ndim == 4 else 0
        if channels != self.classes and not (channels == 1 and self.classes == 2):
            raise InputError(
                f"Expected logits (N, {self.classes}, H, W), or classes (N, H, W) as integers; got "
                f"{predicted.dtype} of the shape {tuple(predicted.shape)}."
            )
        logits = predicted if predicted.dtype == torch.float64 else predicted.float()
        if channels == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        top, classes = logits.max(dim=1)  # the first of equal ones; several times as fast as argmax
        return logits, top, classes

    def _check(self, predicted: Tensor, target: Tensor, names: Sequence[str] | None) -> None:
        if predicted.ndim != 3 or predicted.shape != target.shape or target.is_floating_point():
            raise InputError(
                "Expected a target (N, H, W) of integers for a prediction of the shape "
                f"{tuple(predicted.shape)}, got {target.dtype} of the shape {tuple(target.shape)}."
            )
        if names is not None and len(names) != len(target):
            raise InputError(f"{len(names)} names were given for {len(target)} images.")
        for what, values in (("prediction", predicted), ("target", target.long())):
            lowest, highest = values.aminmax() if values.numel() else (0, 0)
            if lowest >= 0 and highest < self.classes:
                continue
            wrong = (values < 0) | (values >= self.classes)
            if what == "target" and self.ignore_index is not None:
                wrong &= values != self.ignore_index
            if wrong.any():
                i = int(wrong.flatten(1).any(dim=1).nonzero()[0])
                where = f" of {names[i]}" if names is not None else ""
                raise InputError(
                    f"The {what}{where} holds {int(values[wrong][0])}, which is no class: they are "
                    f"0 to {self.classes - 1}, void is {self.ignore_index}."
                )

    def _add(self, image: _Image) -> None:
        if image.name is None:
            self._unnamed.append(image)
            return
        known = self._named.setdefault(image.name, image)
        # The same image may differ by a last bit of a float, but its truth is the same.
        if known is not image and not _same_truth(known, image, self.classes):
            raise InputError(
                f"Two images that differ are called {image.name!r}. Give each its own name: one "
                "that comes twice under its name is counted once."
            )

    def _boundaries(self, images: Sequence[_Image]) -> tuple[float | None, ...] | None:
        if not self.boundaries:
            return None
        columns = zip(*(image.boundaries.tolist() for image in images), strict=True)
        found = [mean([None if math.isnan(f1) else f1 for f1 in column]) for column in columns]
        found = found or [None] * self.classes
        return tuple(None if i == self.ignore_index else f1 for i, f1 in enumerate(found))

    def _intervals(self, counts: Tensor) -> Intervals | None:
        if len(counts) < 2:
            return None
        void = self.ignore_index
        draws = bootstrap(counts, void if void in range(self.classes) else None)
        miou, accuracy, *iou = (interval(column) for column in draws.unbind(dim=1))
        if miou is None or accuracy is None:
            return None
        return Intervals(miou=miou, pixel_accuracy=accuracy, iou=tuple(iou))

    def _calibration(self, images: Sequence[_Image]) -> dict[str, Any]:
        if not self.calibration:
            return {}
        bins = sum((image.bins for image in images), torch.zeros(3, calibrated.BINS).long())
        if not bins.any():
            return {}
        columns = zip(*(image.likelihoods.tolist() for image in images), strict=True)
        sums = [math.fsum(column) for column in columns]
        return {
            "ece": calibrated.expected_error(bins),
            "reliability": calibrated.reliability(bins),
            "temperature": calibrated.best_temperature(sums),
            "likelihood": calibrated.mean_likelihood(sums),
        }


def check_finite(top: Tensor, names: Sequence[str] | None) -> None:
    """Raise where the largest logit of a pixel is not finite: no class is then the model's.

    With infinity as the largest nothing can be said of the others, and of its probability nothing
    at all; -inf below a finite one is a class that somebody has ruled out.
    """
    wrong = ~top.isfinite()
    if wrong.any():
        i = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        where = f" of {names[i]}" if names is not None else ""
        held = "NaN" if top[i].isnan().any() else "infinity"
        raise InputError(
            f"The logits{where} hold {held}, so they say nothing of classes: values of the image, "
            "or weights of the model, are not finite, or too large for its precision (float16 "
            "ends at 65504)."
        )


def _same_truth(one: _Image, other: _Image, classes: int) -> bool:
    return torch.equal(one.counts(classes)[1], other.counts(classes)[1])
