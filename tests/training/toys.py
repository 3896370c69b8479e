"""A model that costs next to nothing, and pictures that it can learn something from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import segzoo

ENCODER = "training_toy"


class Toy(nn.Module):
    """Two maps, with batch normalisation and dropout: all that a state has to remember."""

    features = (segzoo.FeatureSpec(4, 2), segzoo.FeatureSpec(8, 4))

    def __init__(self, in_channels: int = 3, pretrained: bool = False) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(in_channels, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1)
        )
        self.coarse = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.fine(image)
        return [fine, self.coarse(fine)]


if ENCODER not in segzoo.list_encoders():
    segzoo.register_encoder(ENCODER)(Toy)


def toy_model(classes: int = 3, **arguments: object) -> segzoo.Unet:
    """The same weights each time; the global random state stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return segzoo.Unet(ENCODER, classes, decoder_channels=(8, 4), **arguments)


class Blobs:
    """Squares of three classes on noise; a row of void where there is an ignore index.

    Items are made when they are asked for, from their number alone.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        size: tuple[int, int] = (24, 32),
        ignore_index: int | None = None,
        classes: int = 3,
    ) -> None:
        self.count, self.seed, self.size = count, seed, size
        self.ignore_index, self.classes = ignore_index, classes
        self.names = tuple(f"blob{i}" for i in range(count))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        height, width = self.size
        coarse = torch.randint(self.classes, (-(-height // 8), -(-width // 8)), generator=generator)
        mask = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width].clone()
        noise = torch.randint(0, 60, (3, height, width), generator=generator)
        image = (mask * 60 + noise).clamp(0, 255).to(torch.uint8)
        if self.ignore_index is not None:
            mask[index % height] = self.ignore_index
        return image, mask
