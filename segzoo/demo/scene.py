"""What the demo learns from and is judged on: one photograph, cut in two."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.pictures import read_for_bands, read_mask, to_bands
from ..errors import InputError
from ..packages import load_package

#: More distinct values than this, and a file is a photograph, not a mask.
MAX_CLASSES = 32
#: The narrower part must leave something to learn from.
MIN_SIDE = 48


@dataclass(frozen=True)
class Scene:
    """A photograph with its true mask.

    Attributes:
        photo: ``(3, H, W)``, uint8 or uint16.
        truth: ``(H, W)``, int64, classes from 0 without a gap.
        class_names: One for each class.
    """

    photo: Tensor
    truth: Tensor
    class_names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """How many classes the mask has."""
        return len(self.class_names)

    @property
    def split(self) -> int:
        """The first column of the right third."""
        return 2 * self.photo.shape[2] // 3

    def left(self) -> Scene:
        """The left two thirds, to learn from."""
        return self._columns(slice(None, self.split))

    def right(self) -> Scene:
        """The right third, to be judged on."""
        return self._columns(slice(self.split, None))

    def _columns(self, columns: slice) -> Scene:
        return Scene(self.photo[..., columns], self.truth[..., columns], self.class_names)


def coins_scene() -> Scene:
    """scikit-image's photograph of 24 coins (303x384, in its wheel) with a mask made from it.

    The mask is classical region-based segmentation, as in scikit-image's tutorial "Comparing
    edge-based and region-based segmentation": the Sobel gradient is flooded from markers that are
    surely background (below 30) and surely coin (above 150), and holes are filled.

    Raises:
        MissingPackageError: scikit-image is not installed.
    """
    load_package("skimage", extra="demo", package="scikit-image")
    from scipy.ndimage import binary_fill_holes
    from skimage import data, filters, segmentation

    photo = data.coins()
    markers = (photo < 30) + 2 * (photo > 150)
    coins = binary_fill_holes(segmentation.watershed(filters.sobel(photo), markers) == 2)
    return Scene(
        photo=to_bands(torch.from_numpy(photo)[None], 3),
        truth=torch.from_numpy(coins).long(),
        class_names=("background", "coin"),
    )


def read_scene(image: str | os.PathLike[str], mask: str | os.PathLike[str]) -> Scene:
    """A photograph and a mask from files; the distinct values of the mask are the classes.

    Raises:
        InputError: A file that cannot be read, sizes that differ, or a mask that cannot be
            learned from or judged by.
    """
    photo, values = read_for_bands(image, 3), read_mask(mask)
    if photo.shape[1:] != values.shape:
        raise InputError(
            f"The image is {_size(photo)} and the mask {_size(values)} (height x width); they must "
            "show the same pixels."
        )
    distinct, truth = torch.unique(values, return_inverse=True)
    if not 2 <= len(distinct) <= MAX_CLASSES:
        raise InputError(
            f"The mask {os.fspath(mask)} has {len(distinct)} distinct values; expected one for "
            f"each class, 2 to {MAX_CLASSES} of them."
        )
    scene = Scene(photo, truth, tuple(f"value {value}" for value in distinct.tolist()))
    _check(scene)
    return scene


def _check(scene: Scene) -> None:
    left, right = scene.left(), scene.right()
    smallest = min(*left.truth.shape, *right.truth.shape)
    if smallest < MIN_SIDE:
        raise InputError(
            f"The image is {_size(scene.truth)}; its thirds must be at least {MIN_SIDE} pixels "
            "wide and high."
        )
    unseen = set(range(scene.classes)) - set(torch.unique(left.truth).tolist())
    if unseen:
        raise InputError(
            f"The left two thirds of the mask do not show {scene.class_names[min(unseen)]!r}, so "
            "it cannot be learned from them."
        )
    if not right.truth.any():
        raise InputError(
            f"The right third of the mask shows nothing but {scene.class_names[0]!r}, so there is "
            "nothing to judge by."
        )


def _size(picture: Tensor) -> str:
    return f"{picture.shape[-2]}x{picture.shape[-1]}"
