"""Pictures beside their truth, prediction and errors: the best, the median and the worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..checks import printable
from ..data.drawing import class_colors, overlay
from .figures import new_figure, save_figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Which samples are drawn, in this order.
KINDS = ("best", "median", "worst")
#: Width of all panels together in inches, and the largest height.
_WIDTH, _HEIGHT, _DPI = 14.0, 8.0, 100
_WRONG = (213, 94, 0)
#: Classes that a legend has room for.
_LEGEND = 12


@dataclass(frozen=True)
class Sample:
    """A picture that was scored.

    Attributes:
        name: What it is called.
        image: ``(C, H, W)``, raw values.
        target: ``(H, W)``, true classes.
        predicted: ``(H, W)``, predicted classes.
        miou: Its own mean IoU.
    """

    name: str
    image: Tensor
    target: Tensor
    predicted: Tensor
    miou: float | None


def pick(image_miou: Mapping[str, float | None]) -> dict[str, str]:
    """The names of the best, the median and the worst picture; fewer where there are fewer.

    >>> pick({"a": 0.5, "b": 0.9, "c": None, "d": 0.1})
    {'best': 'b', 'median': 'a', 'worst': 'd'}
    """
    known = sorted((miou, name) for name, miou in image_miou.items() if miou is not None)
    names = [name for _, name in reversed(known)]
    places = {"best": 0, "median": len(names) // 2, "worst": len(names) - 1}
    chosen: dict[str, str] = {}
    for kind, place in places.items():
        if names and names[place] not in chosen.values():
            chosen[kind] = names[place]
    return chosen


def draw_sample(
    path: Path,
    sample: Sample,
    *,
    classes: int,
    class_names: tuple[str, ...] | None = None,
    ignore_index: int | None = None,
    title: str | None = None,
) -> Path:
    """A picture, its true classes, the predicted ones, and where they differ.

    Args:
        path: Path of the PNG.
        sample: What is drawn; of pictures that are neither grey nor RGB the first bands.
        classes: How many classes there are.
        class_names: One for each class.
        ignore_index: Void in ``sample.target``; it is left grey.
        title: What stands above; None for the name and the score.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    height, width = sample.target.shape
    stacked = height < 0.6 * width  # wide pictures: two rows of two
    rows, columns = (2, 2) if stacked else (1, 4)
    scale = min(_WIDTH / (columns * width), _HEIGHT / (rows * height))
    figure = new_figure(
        max(columns * width * scale, 6.0), rows * (height * scale + 0.3) + 0.9, extra="train"
    )
    void = torch.zeros_like(sample.target, dtype=torch.bool)
    if ignore_index is not None:
        void = sample.target == ignore_index
    grey = void.numpy()
    photo = overlay(sample.image, torch.zeros_like(sample.target))
    wrong = (sample.target != sample.predicted).numpy() & ~grey
    share = wrong.sum() / max((~grey).sum(), 1)
    panels: list[tuple[str, NDArray[np.uint8]]] = [
        ("picture", photo),
        ("truth", _tinted(photo, sample.target.masked_fill(void, 0), classes, grey)),
        ("prediction", _tinted(photo, sample.predicted, classes)),
        (f"errors, {share:.1%} of pixels", _marked(photo, wrong, grey)),
    ]
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (name, pixels) in zip(axes, panels, strict=True):
        axis.imshow(pixels, interpolation="bilinear" if width * scale * _DPI < width else "nearest")
        axis.set_title(name, fontsize=11)
        axis.set_axis_off()
    score = "" if sample.miou is None else f": mean IoU {sample.miou:.3f}"
    text = f"{sample.name}{score}" if title is None else title
    figure.suptitle(printable(text).replace("$", r"\$"), fontsize=12)
    _legend(figure, sample, classes, class_names, void)
    return save_figure(path, figure, dpi=_DPI)


def _tinted(
    photo: NDArray[np.uint8],
    labels: Tensor,
    classes: int,
    void: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """The colours of classes over the picture in grey: no colour of its own misleads."""
    grey = photo.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    faded = np.repeat(grey[..., None], 3, axis=2)
    colors = class_colors(classes)[labels.numpy()].astype(np.float64)
    mixed = 0.3 * faded + 0.7 * colors
    if void is not None:
        mixed[void] = 0.3 * faded[void] + 0.7 * 255
    return np.asarray(mixed.round().astype(np.uint8))


def _marked(
    photo: NDArray[np.uint8], wrong: NDArray[np.bool_], void: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Errors in full colour on the faded picture; void is white."""
    pixels = 255 - (255 - photo.astype(np.float64)) * 0.4
    pixels[wrong] = _WRONG
    pixels[void] = 255
    return np.asarray(pixels.round().astype(np.uint8))


def _legend(
    figure: Any, sample: Sample, classes: int, names: tuple[str, ...] | None, void: Tensor
) -> None:
    """The classes that are there or predicted, the most frequent first."""
    from matplotlib.patches import Patch

    seen = torch.cat([sample.target[~void], sample.predicted.flatten()])
    counts = seen.bincount(minlength=classes)
    order = [int(i) for i in counts.argsort(descending=True, stable=True) if counts[i]]
    colors = class_colors(classes) / 255
    handles = [
        Patch(
            facecolor=colors[i],
            edgecolor="#999999",
            linewidth=0.5,
            label=(names[i] if names else f"class {i}").replace("$", r"\$"),
        )
        for i in order[:_LEGEND]
    ]
    if len(order) > _LEGEND:
        handles.append(Patch(alpha=0, label=f"and {len(order) - _LEGEND} more"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 7),
        frameon=False,
        fontsize=9,
        handlelength=1.0,
    )
