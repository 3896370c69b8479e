"""Probabilities of whole pictures, averaged over views of them where that is wanted."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError
from .inputs import check_finite, describe
from .pixel_model import Predictor, pixel_model
from .views import Views


def predict_probabilities(
    model: Predictor, image: Tensor, *, tta: str = "none", scales: Sequence[float] = (1.0,)
) -> Tensor:
    """The probability of each class at each pixel of a picture.

    >>> model = segzoo.Unet("resnet18", classes=3)
    >>> picture = torch.randint(0, 256, (3, 60, 45), dtype=torch.uint8)
    >>> segzoo.predict_probabilities(model, picture, tta="flips").shape
    torch.Size([3, 60, 45])

    With test-time augmentation the model sees several views of the picture, mirrored, turned or
    scaled; each answer is turned back exactly, and their probabilities are averaged. It costs one
    forward pass for each view.

    Args:
        model: A model, an optimised one, or anything like them; it stays in its mode.
        image: ``(C, H, W)`` or ``(N, C, H, W)``; uint8, uint16, or floating point in 0..1.
        tta: ``"none"``; ``"mirror"``: left and right exchanged too; ``"flips"``: also top and
            bottom, 4 views; ``"dihedral"``: also quarter turns, 8 views.
        scales: Factors of the picture's size, each of which is a view more.

    Returns:
        ``(classes, H, W)`` or ``(N, classes, H, W)``, summing to 1; with one class its probability,
        which is one half at the model's threshold.

    Raises:
        InputError: The picture or the model cannot be used.
        ArgumentError: ``tta`` or ``scales`` cannot work.
    """
    if not isinstance(image, Tensor) or image.ndim not in (3, 4):
        raise InputError(f"Expected an image (C, H, W) or (N, C, H, W), got {describe(image)}.")
    batch = image if image.ndim == 4 else image[None]
    check_finite(batch)
    views = Views(tta, scales)
    with pixel_model(model, views) as ready:
        found = ready.probabilities(ready.normalized(batch))
    return found if image.ndim == 4 else found[0]
