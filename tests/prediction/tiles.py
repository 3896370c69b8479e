"""Models and files that the tests of tiles share."""

from __future__ import annotations

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from torch import nn

import segzoo
from segzoo.prediction.pixel_model import pixel_model
from segzoo.prediction.views import AS_IT_IS, Views


class Predictor(nn.Module):
    """The least that can be predicted with, on top of a function."""

    in_channels = 3
    threshold = 0.0
    stride = 4

    def __init__(self, function, classes=3, in_channels=3):
        super().__init__()
        self.function, self.classes, self.in_channels = function, classes, in_channels
        self.normalization = segzoo.Normalization((0.5,) * in_channels, (0.25,) * in_channels)
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        return self.function(image)


def blur(radius, classes=3):
    """Logits that look exactly so many pixels far."""
    side = 2 * radius + 1
    weight = torch.rand(classes, 3, side, side, generator=torch.Generator().manual_seed(1))
    weight = weight / weight.sum(dim=(1, 2, 3), keepdim=True)
    return Predictor(lambda image: F.conv2d(image, weight.to(image), padding=radius), classes)


def equivariant():
    """Mirrored and turned pictures give mirrored and turned logits."""
    ring = torch.tensor([[1.0, 2, 1], [2, 5, 2], [1, 2, 1]]) / 17
    mix = torch.rand(3, 3, generator=torch.Generator().manual_seed(2))
    weight = mix[:, :, None, None] * ring
    return Predictor(lambda image: 4 * F.conv2d(image, weight.to(image), padding=1))


def with_global_pooling():
    """Each logit depends on the whole picture, as with squeeze-and-excitation."""
    return Predictor(lambda image: image * torch.sigmoid(image.mean(dim=(2, 3), keepdim=True)))


def with_cyclic_shift():
    """Each logit depends on its neighbour, and the first on the last, as in Swin."""
    return Predictor(lambda image: image + image.roll(1, dims=3))


def corners_aligned():
    """Half the size and back with ratios that depend on the picture's size."""

    def function(image):
        small = F.avg_pool2d(image, 2, ceil_mode=True)
        size = image.shape[-2:]
        return F.interpolate(small, size, mode="bilinear", align_corners=True)

    return Predictor(function)


def right_at_even_sizes():
    """Resized by a ratio that is 2 for even sizes, and another for each odd one."""

    def function(image):
        return F.interpolate(F.max_pool2d(image, 2), image.shape[-2:], mode="bilinear")

    return Predictor(function)


def random_picture(height, width, bands=3):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (bands, height, width), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def in_one_piece(model, picture, *, kind="logits", unit=1, tta="none"):
    """What the model gives for a picture as a whole, padded to multiples of ``unit``."""
    height, width = picture.shape[1:]
    views = Views(tta) if tta != "none" else AS_IT_IS
    with pixel_model(model, views) as ready:
        image = ready.normalized(picture[None])
        image = F.pad(image, (0, -width % unit, 0, -height % unit))
        answer = ready.answer(image, kind)[..., :height, :width]
        return answer[0] if kind != "classes" else ready.mask(answer, kind)[0]


def geotiff(path, array, **options):
    """Write a georeferenced file."""
    profile = {
        "driver": "GTiff",
        "count": array.shape[0],
        "height": array.shape[1],
        "width": array.shape[2],
        "dtype": array.dtype,
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
        "photometric": "minisblack",
        "alpha": "no",
        **options,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.asarray(array))
    return path
