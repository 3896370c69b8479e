"""Pictures of a training and of its scores, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import StorageError
from ..files.atomic import replacing
from ..packages import load_package
from .score_values import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100
#: Okabe and Ito, as in :func:`segzoo.data.drawing.class_colors`.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_GREY = "#555555"
#: Up to so many classes a confusion matrix has its numbers written into it.
_NUMBERS = 20
#: Up to so many its rows and columns have names: with more nobody could read them.
_NAMED = 160
#: Inches of its longer side, without what stands beside it.
_LARGEST = 24.0


def new_figure(width: float, height: float, *, extra: str = "train") -> Figure:
    """An empty white figure, in inches.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require_matplotlib(extra=extra)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def require_matplotlib(*, extra: str = "train") -> None:
    """Raise where nothing could be drawn, for asking before the work is done.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    load_package("matplotlib.figure", extra=extra)


def save_figure(path: Path, figure: Figure, *, dpi: int = _DPI) -> Path:
    """Write a figure as a PNG.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=dpi)
            with Image.open(temporary) as image:
                opaque = image.convert("RGB")  # smaller than with matplotlib's alpha
            opaque.save(temporary, format="PNG", optimize=True)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error}.") from error
    return path


def draw_curves(path: Path, history: Sequence[Mapping[str, Any]]) -> Path:
    """Loss, mean IoU and learning rate over the epochs of a training.

    Args:
        path: Path of the PNG.
        history: The lines of ``training/metrics.jsonl``.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    figure = new_figure(11, 3.4)
    loss, score, rate = figure.subplots(1, 3)
    epochs = [int(row["epoch"]) for row in history]
    marker = "o" if len(epochs) < 15 else None
    line: dict[str, Any] = {"linewidth": 2, "marker": marker, "markersize": 4}
    loss.plot(epochs, [row["loss"] for row in history], color=_BLUE, **line)
    loss.set_title("training loss", fontsize=11)
    miou = [_number(row["val"]["miou"]) for row in history]
    score.plot(epochs, miou, color=_ORANGE, label="mean IoU", **line)
    accuracy = [_number(row["val"]["pixel_accuracy"]) for row in history]
    score.plot(epochs, accuracy, color=_GREY, linewidth=1.2, label="pixel accuracy")
    score.set_title("validation", fontsize=11)
    score.set_ylim(0, 1)
    best = best_epoch(history)
    if best is not None:
        value = miou[epochs.index(best)]
        score.plot([best], [value], "o", markersize=9, markerfacecolor="none", color=_ORANGE)
        score.annotate(
            f"best: {value:.3f}\nepoch {best}",
            (best, value),
            xytext=(0, -12 if value > 0.3 else 12),
            textcoords="offset points",
            ha="right" if best > (epochs[0] + epochs[-1]) / 2 else "left",
            va="top" if value > 0.3 else "bottom",
            fontsize=9,
            color=_ORANGE,
        )
    score.legend(frameon=False, fontsize=9, loc="lower right" if max(miou) > 0.4 else "upper right")
    rate.plot(epochs, [row["lr"] for row in history], color=_GREEN, **line)
    rate.set_title("learning rate", fontsize=11)
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for axis in (loss, score, rate):
        axis.set_xlabel("epoch", fontsize=9, color=_GREY)
        if len(epochs) <= 10:
            axis.set_xticks(epochs)
        else:
            axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(color="#DDDDDD", linewidth=0.6)
        _plain(axis)
    return save_figure(path, figure)


def draw_confusion(path: Path, scores: Scores) -> Path:
    """The confusion matrix; each row adds up to 100 %, and its diagonal is the recall.

    Args:
        path: Path of the PNG.
        scores: Of any number of classes; up to 20 the numbers are written into the cells.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    counts = np.array(scores.counts, dtype=np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    classes, names = scores.classes, [_short(name) for name in scores.names]
    cell = 0.52 if classes <= _NUMBERS else max(0.22, 10 / classes)
    cell = min(cell, _LARGEST / classes)
    named = classes <= _NAMED
    label = 0.085 * max(map(len, names)) if named else 0.0
    side = max(classes * cell, 2.2)
    figure = new_figure(side + label + 1.6, side + label + 0.9)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if named:
        axis.set_xticks(range(classes), names, rotation=90 if classes > 4 else 0)
        axis.set_yticks(range(classes), names)
    axis.tick_params(length=0, labelsize=9 if classes <= _NUMBERS else 7)
    axis.set_xlabel("predicted", fontsize=10, color=_GREY)
    axis.set_ylabel("true", fontsize=10, color=_GREY)
    if named:
        axis.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="#E4E4E4", linewidth=0.5)
        axis.tick_params(which="minor", length=0)
    if classes <= _NUMBERS:
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            share = shares[row, column]
            axis.text(
                column,
                row,
                f"{share * 100:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if share > 0.55 else "#222222",
            )
    for row in map(int, np.flatnonzero(totals[:, 0] == 0)) if named else ():
        axis.text(-0.4, row, "not there", va="center", fontsize=7, color=_GREY)
    bar = figure.colorbar(image, ax=axis, shrink=min(1.0, 3 / side), format=_percent)
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", fontsize=9, color=_GREY)
    bar.ax.tick_params(labelsize=8, colors=_GREY, length=2)
    _plain(axis)
    return save_figure(path, figure)


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The first epoch with the largest mean IoU; None where none has one."""
    known = [row for row in history if row["val"]["miou"] is not None]
    if not known:
        return None
    best: int = max(known, key=lambda row: (row["val"]["miou"], -row["epoch"]))["epoch"]
    return best


def _plain(axis: Any) -> None:
    for spine in axis.spines.values():
        spine.set_visible(False)
    if axis.get_xlabel() == "epoch":
        axis.tick_params(length=2, labelsize=8, colors=_GREY)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _short(name: str, longest: int = 24) -> str:
    """A name for an axis; matplotlib takes what stands between dollar signs for a formula."""
    cut = name if len(name) <= longest else name[: longest - 1] + "…"
    return cut.replace("$", r"\$")


def _percent(value: float, _: object) -> str:
    return f"{value:.0%}"
