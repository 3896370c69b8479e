"""What an evaluation found: numbers that a file can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..errors import ArgumentError
from .confusion import mean, shares

#: A lower and an upper bound.
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Where scores would lie for other images of the same kind: 95 % intervals.

    A percentile bootstrap over images: 1000 times as many images are drawn from those that were
    scored, some twice and some never, and pooled anew. It knows nothing of what was trained.

    Attributes:
        miou: Of the mean IoU.
        pixel_accuracy: Of the pixel accuracy.
        iou: Of each class's IoU; None where it has none.
    """

    miou: Interval
    pixel_accuracy: Interval
    iou: tuple[Interval | None, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good masks are, over all pixels of all images together.

    >>> meter = segzoo.ScoreMeter(2)
    >>> meter.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 1]]]))
    >>> scores = meter.compute(class_names=("ground", "coin"))
    >>> scores.miou, scores.iou, scores.confusion.tolist()
    (0.5833333333333333, (0.5, 0.6666666666666666), [[1, 1], [0, 2]])

    What cannot be said is None: the IoU of a class that is neither there nor predicted, the
    precision of one that is never predicted, the recall of one that is not there. Means are over
    the classes that have a value.

    Attributes:
        counts: The confusion matrix, a row for each true class, a column for each predicted one,
            of all pixels that are not void. Every score below that has no field comes from it.
        images: How many images were scored.
        class_names: One for each class, or None.
        ignore_index: The value of void; where it is one of the classes, that has no scores.
        boundary_f1_by_class: The F1 of boundaries (Csurka et al., 2013) of each class, the mean
            over the images that have one; the tolerance is 0.75 % of an image's diagonal, in whole
            pixels along rows and columns. None where it was not measured.
        ece: The expected calibration error, 0 to 1, of 15 bins (Guo et al., 2017), or None.
        reliability: Pixels, right pixels and mean confidence of each of these bins.
        temperature: What logits should be divided by before they become probabilities: of least
            negative log-likelihood (Guo et al., 2017) on 1024 pixels of each image. Choose it on
            validation data, and judge it on others. None where it cannot be told.
        likelihood: The mean negative log-likelihood of these pixels, in nats, without it.
        intervals: 95 % intervals, or None for fewer than two images.
    """

    counts: tuple[tuple[int, ...], ...]
    images: int
    class_names: tuple[str, ...] | None = None
    ignore_index: int | None = None
    boundary_f1_by_class: tuple[float | None, ...] | None = None
    ece: float | None = None
    reliability: tuple[tuple[int, int, float], ...] | None = None
    temperature: float | None = None
    likelihood: float | None = None
    intervals: Intervals | None = None

    def __post_init__(self) -> None:
        classes = len(self.counts)
        if classes < 2 or any(len(row) != classes for row in self.counts):
            raise ArgumentError("counts must be a square matrix of two classes or more.")
        if not all(type(pixels) is int and pixels >= 0 for row in self.counts for pixels in row):
            raise ArgumentError("counts must be whole numbers of pixels, 0 or more.")
        checks.integer("images", self.images, minimum=0, maximum=2**63 - 1)
        for name in self.class_names or ():
            checks.text("class_names", name)
        if self.class_names is not None and len(self.class_names) != classes:
            raise ArgumentError(
                f"class_names has {len(self.class_names)} names for {classes} classes."
            )
        by_class: dict[str, tuple[Any, ...] | None] = {
            "boundary_f1_by_class": self.boundary_f1_by_class
        }
        if self.intervals is not None:
            by_class["intervals.iou"] = self.intervals.iou
        for field, values in by_class.items():
            if values is not None and len(values) != classes:
                raise ArgumentError(f"{field} has {len(values)} values for {classes} classes.")
        for field, number in self._numbers():
            if number is not None:
                checks.number(field, number, minimum=0.0, maximum=1e300)

    def _numbers(self) -> Iterator[tuple[str, float | None]]:
        """The numbers that are no counts, for they may come from anybody's file."""
        yield from ((name, getattr(self, name)) for name in ("ece", "temperature", "likelihood"))
        yield from (("boundary_f1_by_class", value) for value in self.boundary_f1_by_class or ())
        for entry in self.reliability or ():
            pixels, right, confidence = entry
            yield from (("reliability", value) for value in (pixels, right, confidence))
        if self.intervals is not None:
            known = filter(None, self.intervals.iou)
            for low, high in (self.intervals.miou, self.intervals.pixel_accuracy, *known):
                yield from (("intervals", low), ("intervals", high))

    @property
    def classes(self) -> int:
        """How many classes there are, 2 for a model of one logit."""
        return len(self.counts)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each class, made up where there are none."""
        return self.class_names or tuple(f"class {i}" for i in range(self.classes))

    @property
    def confusion(self) -> Tensor:
        """``(K, K)``, int64: pixels of each true class (rows) by what was predicted (columns)."""
        return torch.tensor(self.counts, dtype=torch.int64)

    @property
    def pixels(self) -> int:
        """How many pixels were scored."""
        return sum(map(sum, self.counts))

    @property
    def true_pixels(self) -> tuple[int, ...]:
        """How many pixels are of each class."""
        return tuple(map(sum, self.counts))

    @property
    def predicted_pixels(self) -> tuple[int, ...]:
        """How many pixels were said to be of each class."""
        return tuple(map(sum, zip(*self.counts, strict=True)))

    @property
    def right_pixels(self) -> tuple[int, ...]:
        """How many pixels of each class were found."""
        return tuple(row[i] for i, row in enumerate(self.counts))

    @property
    def iou(self) -> tuple[float | None, ...]:
        """Intersection over union of each class, also known as the Jaccard index."""
        return self._shares(
            self.right_pixels,
            [
                true + predicted - right
                for true, predicted, right in zip(
                    self.true_pixels, self.predicted_pixels, self.right_pixels, strict=True
                )
            ],
        )

    @property
    def dice(self) -> tuple[float | None, ...]:
        """Dice coefficient of each class, also known as F1."""
        sums = map(sum, zip(self.true_pixels, self.predicted_pixels, strict=True))
        return self._shares([2 * right for right in self.right_pixels], list(sums))

    @property
    def precision(self) -> tuple[float | None, ...]:
        """Of the pixels that were said to be of a class, the share that is."""
        return self._shares(self.right_pixels, self.predicted_pixels)

    @property
    def recall(self) -> tuple[float | None, ...]:
        """Of the pixels of a class, the share that was found; also the class's accuracy."""
        return self._shares(self.right_pixels, self.true_pixels)

    @property
    def miou(self) -> float | None:
        """The mean IoU of the classes that are there or predicted; None without a pixel."""
        return mean(self.iou)

    @property
    def mean_dice(self) -> float | None:
        """The mean Dice coefficient of these classes."""
        return mean(self.dice)

    @property
    def mean_accuracy(self) -> float | None:
        """The mean recall of the classes that are there."""
        return mean(self.recall)

    @property
    def pixel_accuracy(self) -> float | None:
        """The share of all pixels that is right."""
        return sum(self.right_pixels) / self.pixels if self.pixels else None

    @property
    def boundary_f1(self) -> float | None:
        """The mean F1 of the classes' boundaries, or None where it was not measured."""
        return None if self.boundary_f1_by_class is None else mean(self.boundary_f1_by_class)

    def _shares(self, above: Sequence[int], below: Sequence[int]) -> tuple[float | None, ...]:
        """Quotients; None for a class that is void."""
        return tuple(
            None if i == self.ignore_index else share
            for i, share in enumerate(shares(above, below))
        )

    def to_json(self, *, small: bool = False) -> dict[str, Any]:
        """The scores as a value for ``json.dumps``.

        Args:
            small: Only the numbers that a curve is drawn of: no matrix, no intervals. There is no
                way back from it.
        """
        main = {name: getattr(self, name) for name in ("miou", "pixel_accuracy", "mean_dice")}
        if small:
            return {"images": self.images, **main, "iou": list(self.iou)}
        return {
            **main,
            "mean_accuracy": self.mean_accuracy,
            "boundary_f1": self.boundary_f1,
            "per_class": [
                dict(zip(("name", *_PER_CLASS), row, strict=True))
                for row in zip(
                    self.names, *(getattr(self, name) for name in _PER_CLASS), strict=True
                )
            ],
            **asdict(self),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scores:
        """The scores from what :meth:`to_json` gave.

        Raises:
            ArgumentError: It is nothing of that kind.
        """
        known = {item.name for item in fields(cls)}
        given = {name: _tuples(entry) for name, entry in value.items() if name in known}
        try:
            if given.get("intervals") is not None:
                given["intervals"] = Intervals(**given["intervals"])
            return cls(**given)
        except (TypeError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise ArgumentError(
                f"These are no scores of Scores.to_json(): {error}. It got {checks.shown(value)}."
            ) from error

    def __str__(self) -> str:
        return table(self)


#: Scores that each class has.
_PER_CLASS = ("iou", "dice", "precision", "recall")


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples."""
    return (
        tuple(map(_tuples, value))
        if isinstance(value, (list, tuple))
        else (
            {key: _tuples(entry) for key, entry in value.items()}
            if isinstance(value, dict)
            else value
        )
    )


#: The columns of :func:`class_rows`.
HEADERS = ("class", "IoU", "Dice", "precision", "recall", "boundary F1", "pixels")


def number(value: float | None, digits: int = 3) -> str:
    """A score as text; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def class_rows(scores: Scores) -> list[tuple[str, ...]]:
    """A row for each class, as :data:`HEADERS` says, then their means."""
    boundaries: Sequence[float | None] = scores.boundary_f1_by_class or [None] * scores.classes
    columns = (scores.iou, scores.dice, scores.precision, scores.recall, boundaries)
    shares = [count / max(scores.pixels, 1) for count in scores.true_pixels]
    rows = [
        (name, *map(number, values), f"{share:.1%}")
        for name, share, *values in zip(scores.names, shares, *columns, strict=True)
    ]
    means = [mean(column) for column in columns]
    return [*rows, ("mean", *map(number, means), "100.0%" if scores.pixels else "-")]


def summary(scores: Scores) -> str:
    """The scores that are not of a class, in a sentence."""
    parts = [f"{scores.images} image{'s' * (scores.images != 1)}, {scores.pixels:,} pixels"]
    miou, accuracy = number(scores.miou), number(scores.pixel_accuracy)
    if scores.intervals is not None:
        miou += _bounds(scores.intervals.miou)
        accuracy += _bounds(scores.intervals.pixel_accuracy)
    parts += [f"mIoU {miou}", f"pixel accuracy {accuracy}"]
    if scores.ece is not None:
        parts.append(f"calibration error {number(scores.ece)}")
    if scores.temperature is not None:
        parts.append(f"temperature {scores.temperature:.2f}")
    return ", ".join(parts)


def table(scores: Scores) -> str:
    """The rows in aligned columns, and the rest below them."""
    rows = [HEADERS, *class_rows(scores)]
    if scores.boundary_f1_by_class is None:
        rows = [(*row[:5], row[6]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:{widths[0]}}" if i == 0 else f"{cell:>{widths[i]}}"
            for i, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", summary(scores)])


def _bounds(bounds: Interval) -> str:
    return f" ({bounds[0]:.3f} to {bounds[1]:.3f})"
