"""From an encoder's maps to a pyramid that a decoder can climb: one map at each stride."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import ArgumentError
from ..features import FeatureSpec, ceil_div, is_flat


class Pyramid(nn.Module, ABC):
    """What turns an encoder's maps into those that a decoder is given.

    Attributes:
        features: What it gives, finest first.
    """

    features: tuple[FeatureSpec, ...]

    @abstractmethod
    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The encoder's maps -> those of :attr:`features`."""

    @abstractmethod
    def named(self, names: list[str]) -> list[str]:
        """What the maps are called, from the names of the encoder's maps."""


class DeepestOfEachStride(Pyramid):
    """Of several maps at one stride the deepest is taken, as in feature pyramid networks.

    Lin et al., "Feature Pyramid Networks for Object Detection", 2017, section 3: "we choose the
    output of the last layer of each stage". A pyramid without doubles passes through as it is.
    """

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        super().__init__()
        last = {feature.stride: i for i, feature in enumerate(features)}
        self.indices = tuple(last.values())
        self.features = tuple(features[i] for i in self.indices)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps that are kept, finest first."""
        return [maps[i] for i in self.indices]

    def named(self, names: list[str]) -> list[str]:
        """What the maps are called, from the names of the encoder's maps."""
        return [names[i] for i in self.indices]


class Reassemble(Pyramid):
    """A pyramid from the equal maps of a flat backbone (a plain vision transformer).

    Ranftl et al., "Vision Transformers for Dense Prediction", 2021, section 3.1 and figure 1:
    each map is projected by a 1x1 convolution and resampled, the earliest block giving the finest
    level; the last but one keeps its stride ``p``, the last gets ``2 p``, the earlier ones ``p/2``,
    ``p/4``, ... Channels double from level to level up to the backbone's own, as there.
    """

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        super().__init__()
        count, stride = len(features), features[0].stride
        if stride >> max(count - 2, 0) < 1:
            raise ArgumentError(
                f"{count} maps of stride {stride} cannot be spread over a pyramid: the finest "
                f"would be finer than the image. Use a depth of {stride.bit_length() + 1} or less."
            )
        levels, specs = [], []
        for i, feature in enumerate(features):
            channels = max(feature.channels >> (count - 1 - i), 1)
            levels.append(_level(feature.channels, channels, count - 2 - i))
            factor = 2 ** max(count - 2 - i, 0)
            specs.append(
                FeatureSpec(channels, ceil_div(stride, factor) if i < count - 1 else 2 * stride)
            )
        self.levels = nn.ModuleList(levels)
        self.features = tuple(specs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps ``(N, C, h, w)`` -> one map for each of ``features``."""
        return [level(item) for level, item in zip(self.levels, maps, strict=True)]

    def named(self, names: list[str]) -> list[str]:
        """What the maps are called, from the names of the encoder's maps."""
        return [f"{name} resampled" for name in names]


def _level(in_channels: int, channels: int, doublings: int) -> nn.Sequential:
    """Project to ``channels``, then make the map ``2 ** doublings`` times as large."""
    project = nn.Conv2d(in_channels, channels, 1)
    if doublings > 0:
        factor = 2**doublings
        return nn.Sequential(project, nn.ConvTranspose2d(channels, channels, factor, stride=factor))
    if doublings < 0:
        return nn.Sequential(project, nn.Conv2d(channels, channels, 3, stride=2, padding=1))
    return nn.Sequential(project)


class OwnMaps(Pyramid):
    """The encoder's maps, as they come."""

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        super().__init__()
        self.indices = tuple(range(len(features)))
        self.features = tuple(features)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The same maps."""
        return maps

    def named(self, names: list[str]) -> list[str]:
        """What the maps are called, from the names of the encoder's maps."""
        return names


class Chosen(Pyramid):
    """Some of a pyramid's maps.

    Args:
        pyramid: What makes the maps.
        finest: Maps of a smaller stride are left out, unless there are no others.
        coarsest: Maps of a larger stride are left out, unless there are no others; None for none.
        most: At most that many are taken, counted from the deepest; None for all.

    Attributes:
        indices: Which of its maps are taken.
        features: What those are, finest first.
    """

    def __init__(
        self, pyramid: Pyramid, *, finest: int, coarsest: int | None, most: int | None
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        features = pyramid.features
        limit = max(coarsest or features[-1].stride, features[0].stride)
        allowed = [i for i, item in enumerate(features) if item.stride <= limit]
        fitting = [i for i in allowed if features[i].stride >= finest] or allowed[-1:]
        self.indices = tuple(fitting[-most:] if most else fitting)
        self.features = tuple(features[i] for i in self.indices)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The encoder's maps -> those of :attr:`features`."""
        made = self.pyramid(maps)
        return [made[i] for i in self.indices]

    def named(self, names: list[str]) -> list[str]:
        """What the maps are called, from the names of the encoder's maps."""
        made = self.pyramid.named(names)
        return [made[i] for i in self.indices]


def make_pyramid(features: Sequence[FeatureSpec]) -> DeepestOfEachStride | Reassemble:
    """The module that turns maps of these features into one map at each stride."""
    flat = is_flat([feature.stride for feature in features])
    return Reassemble(features) if flat else DeepestOfEachStride(features)
