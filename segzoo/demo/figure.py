"""One picture of the result: photograph, truth, prediction, error map, all at one scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..data.drawing import class_colors, overlay
from ..errors import StorageError
from ..files.atomic import replacing
from ..packages import load_package
from .scene import Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The largest width and height that the panels may take, in inches.
_WIDTH, _HEIGHT, _DPI = 11.0, 8.0, 80
#: Kinds of error, with their colours.
_ERRORS = (("missed", "#0072B2"), ("added", "#D55E00"), ("wrong class", "#CC79A7"))


def require_matplotlib() -> None:
    """Raise where :func:`draw_result` could not draw, for asking before the work is done.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    load_package("matplotlib.figure", extra="demo")


def draw_result(path: Path, scene: Scene, mask: Tensor, *, title: str) -> Path:
    """Draw the whole photograph, and of its right third truth, prediction and errors.

    Args:
        path: Path of the PNG.
        scene: The whole photograph with its truth.
        mask: ``(H, W / 3)``, the prediction for ``scene.right()``.
        title: Stands above the panels.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    unseen = scene.right()
    height, width = scene.truth.shape
    scale = min(_WIDTH / (2 * width), _HEIGHT / height)
    figure = Figure(
        figsize=(max(2 * width * scale, 7.0) + 0.9, height * scale + 1.0),
        layout="constrained",
        facecolor="white",
    )
    figure.suptitle(title, fontsize=13)
    third = width - scene.split
    axes = figure.subplots(1, 4, sharey=True, width_ratios=[width, third, third, third])
    names = [(name, color / 255) for name, color in _legend(scene)]
    errors = _error_kinds(mask, unseen.truth)
    shares = [(errors == kind).mean() for kind in range(1, 4)]
    panels: list[tuple[str, NDArray[np.uint8], list[tuple[str, Any]]]] = [
        ("photograph", _gray(scene.photo), []),
        ("truth", overlay(unseen.photo, unseen.truth), names),
        ("prediction", overlay(unseen.photo, mask), names),
        (
            f"errors, {sum(shares):.1%} of pixels",
            _error_map(unseen.photo, errors),
            [
                (f"{name} {share:.1%}", color)
                for (name, color), share in zip(_ERRORS, shares, strict=True)
                if share
            ],
        ),
    ]
    for axis, (name, pixels, entries) in zip(axes, panels, strict=True):
        left = width - pixels.shape[1]
        axis.imshow(pixels, extent=(left, width, height, 0), interpolation="bilinear")
        axis.set_title(name, fontsize=11)
        axis.set_xticks([left, width] if left else [0, scene.split, width])
        axis.set_yticks([0, height])
        axis.tick_params(length=2, labelsize=8, colors="#555555")
        if entries:
            axis.legend(
                handles=[Patch(color=color, label=label) for label, color in entries],
                loc="upper center",
                bbox_to_anchor=(0.5, -0.05),
                frameon=False,
                fontsize=9,
                handlelength=1.0,
            )
    _mark_split(axes[0], scene)
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=_DPI)
            with Image.open(temporary) as image:
                opaque = image.convert("RGB")  # a tenth smaller than with matplotlib's alpha
            opaque.save(temporary, format="PNG", optimize=True)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error}.") from error
    return path


def _mark_split(axis: Any, scene: Scene) -> None:
    """Show in the photograph where the training part ends."""
    height, width = scene.truth.shape
    axis.axvline(scene.split, color="#F0E442", linewidth=2)
    for left, right, text in (
        (0, scene.split, "trained on"),
        (scene.split, width, "never seen"),
    ):
        axis.text(
            (left + right) / 2,
            0.03 * height,
            text,
            ha="center",
            va="top",
            fontsize=10,
            color="white",
            bbox={"facecolor": "black", "alpha": 0.65, "linewidth": 0, "pad": 3},
        )


def _legend(scene: Scene) -> list[tuple[str, NDArray[np.float64]]]:
    colors = class_colors(scene.classes).astype(np.float64)
    return list(zip(scene.class_names[1:], colors[1:], strict=True))


def _gray(photo: Tensor) -> NDArray[np.uint8]:
    """The photograph as overlay() scales it, with nothing laid over."""
    return overlay(photo, photo[0].long() * 0)


def _error_kinds(mask: Tensor, truth: Tensor) -> NDArray[np.uint8]:
    """0 where right, else the position in ``_ERRORS`` plus one."""
    predicted, true = mask.numpy(), truth.numpy()
    kinds = np.where(predicted == 0, 1, np.where(true == 0, 2, 3))
    return np.asarray(np.where(predicted == true, 0, kinds).astype(np.uint8))


def _error_map(photo: Tensor, errors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The kinds of error in full colour on the faded photograph."""
    pixels = 255 - (255 - _gray(photo).astype(np.float64)) * 0.35
    for kind, (_, color) in enumerate(_ERRORS, start=1):
        pixels[errors == kind] = tuple(bytes.fromhex(color[1:]))
    return np.asarray(pixels.round().astype(np.uint8))
