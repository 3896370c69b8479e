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
    def keep(self, chosen: Sequence[int]) -> None:
        """From here on give only these of :attr:`features`, which nothing else is computed for."""

    @abstractmethod
    def named(self, names: list[str]) -> list[str]:
        """What the maps are called, from the names of the encoder's maps."""


class OwnMaps(Pyramid):
    """The encoder's maps, as they come.

    Attributes:
        indices: Which of the encoder's maps are given.
    """

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        super().__init__()
        self.indices = tuple(range(len(features)))
        self.features = tuple(features)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps that are kept, finest first."""
        return [maps[i] for i in self.indices]

    def keep(self, chosen: Sequence[int]) -> None:
        """From here on give only these of :attr:`features`."""
        self.indices = tuple(self.indices[i] for i in chosen)
        self.features = tuple(self.features[i] for i in chosen)

    def named(self, names: list[str]) -> list[str]:
        """What the maps are called, from the names of the encoder's maps."""
        return [names[i] for i in self.indices]


class DeepestOfEachStride(OwnMaps):
    """Of several maps at one stride the deepest is taken, as in feature pyramid networks.

    Lin et al., "Feature Pyramid Networks for Object Detection", 2017, section 3: "we choose the
    output of the last layer of each stage". A pyramid without doubles passes through as it is.
    """

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        super().__init__(features)
        last = {feature.stride: i for i, feature in enumerate(features)}
        self.keep(tuple(last.values()))


class Reassemble(Pyramid):
    """A pyramid from the equal maps of a flat backbone (a plain vision transformer).

    Ranftl et al., "Vision Transformers for Dense Prediction", 2021, section 3.1 and figure 1:
    each map is projected by a 1x1 convolution and resampled, the earliest block giving the finest
    level; the last but one keeps its stride ``p``, the last gets ``2 p``, the earlier ones ``p/2``,
    ``p/4``, ... Channels double from level to level up to the backbone's own, as there.

    Args:
        features: The backbone's maps.
        coarsest: Where the last level's stride would be larger, it keeps the backbone's own.
    """

    def __init__(self, features: Sequence[FeatureSpec], *, coarsest: int | None = None) -> None:
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
            doublings = count - 2 - i
            if coarsest is not None and 2 * stride > coarsest:
                doublings = max(doublings, 0)
            levels.append(_level(feature.channels, channels, doublings))
            own = ceil_div(stride, 2**doublings) if doublings >= 0 else 2 * stride
            specs.append(FeatureSpec(channels, own))
        self.levels = nn.ModuleList(levels)
        self.indices = tuple(range(count))
        self.features = tuple(specs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps ``(N, C, h, w)`` -> one map for each of ``features``."""
        return [level(maps[i]) for level, i in zip(self.levels, self.indices, strict=True)]

    def keep(self, chosen: Sequence[int]) -> None:
        """From here on give only these of :attr:`features`."""
        self.levels = nn.ModuleList(self.levels[i] for i in chosen)
        self.indices = tuple(self.indices[i] for i in chosen)
        self.features = tuple(self.features[i] for i in chosen)

    def named(self, names: list[str]) -> list[str]:
        """What the maps are called, from the names of the encoder's maps."""
        return [f"{names[i]} resampled" for i in self.indices]


def _level(in_channels: int, channels: int, doublings: int) -> nn.Sequential:
    """Project to ``channels``, then make the map ``2 ** doublings`` times as large."""
    project = nn.Conv2d(in_channels, channels, 1)
    if doublings > 0:
        factor = 2**doublings
        return nn.Sequential(project, nn.ConvTranspose2d(channels, channels, factor, stride=factor))
    if doublings < 0:
        return nn.Sequential(project, nn.Conv2d(channels, channels, 3, stride=2, padding=1))
    return nn.Sequential(project)


class Chosen(Pyramid):
    """Some of a pyramid's maps.

    Args:
        pyramid: What makes the maps; from here on only those that are taken.
        finest: Maps of a smaller stride are left out, unless there are no others.
        coarsest: Maps of a larger stride are left out, unless there are no others; None for none.
        most: At most that many are taken, counted from the deepest; None for all.
        ends: Of those the finest and the deepest only.

    Attributes:
        indices: Which of its maps are taken.
        features: What those are, finest first.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        *,
        finest: int = 1,
        coarsest: int | None = None,
        most: int | None = None,
        ends: bool = False,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        strides = [item.stride for item in pyramid.features]
        limit = max(strides if coarsest is None else (coarsest, strides[0]))
        chosen = [i for i, stride in enumerate(strides) if stride <= limit]
        chosen = [i for i in chosen if strides[i] >= finest] or chosen[-1:]
        chosen = chosen[-most:] if most else chosen
        self.indices = tuple(sorted({chosen[0], chosen[-1]}) if ends else chosen)
        pyramid.keep(self.indices)
        self.features = pyramid.features

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The encoder's maps -> those of :attr:`features`."""
        made: list[Tensor] = self.pyramid(maps)
        return made

    def keep(self, chosen: Sequence[int]) -> None:
        """From here on give only these of :attr:`features`."""
        self.pyramid.keep(chosen)
        self.indices = tuple(self.indices[i] for i in chosen)
        self.features = self.pyramid.features

    def named(self, names: list[str]) -> list[str]:
        """What the maps are called, from the names of the encoder's maps."""
        return self.pyramid.named(names)


def make_pyramid(
    features: Sequence[FeatureSpec], *, flat: bool | None = None
) -> DeepestOfEachStride | Reassemble:
    """The module that turns maps of these features into one map at each stride.

    Args:
        features: The encoder's maps.
        flat: Whether the encoder is made so that all its maps are alike; None to ask the features.
    """
    if flat is None:
        flat = is_flat([feature.stride for feature in features])
    return Reassemble(features) if flat else DeepestOfEachStride(features)
