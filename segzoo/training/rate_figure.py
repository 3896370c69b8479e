"""The picture of a search for a learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .figures import new_figure, save_figure

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#555555"


def draw_rates(path: Path, curve: Sequence[tuple[float, float]], found: float) -> Path:
    """Smoothed loss by learning rate, and the rate that was taken.

    Args:
        path: Path of the PNG.
        curve: Rates and losses, of :func:`~segzoo.training.finding.find_learning_rate`.
        found: The rate that was taken.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    figure = new_figure(6, 3.6)
    axis = figure.subplots()
    axis.semilogx(
        [rate for rate, _ in curve], [loss for _, loss in curve], color=_BLUE, linewidth=2
    )
    axis.axvline(found, color=_ORANGE, linewidth=1.2)
    axis.annotate(
        f"taken: {found:g}",
        (found, 0.95),
        xycoords=("data", "axes fraction"),
        xytext=(6, 0),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color=_ORANGE,
    )
    axis.set_xlabel("learning rate", fontsize=9, color=_GREY)
    axis.set_title("loss while the learning rate grows", fontsize=11)
    axis.tick_params(labelsize=8, colors=_GREY)
    axis.grid(color="#DDDDDD", linewidth=0.6)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return save_figure(path, figure)
