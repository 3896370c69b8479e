"""timm's networks whose maps other libraries take at other places than timm does.

A checkpoint of such a library has the layers of timm's network, but a decoder that was trained on
other maps. So that it can be brought over exactly, each of these is an encoder of its own. Names
begin with the library that takes the maps there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One of timm's networks, and where its maps are taken.

    Args:
        model: timm's architecture.
        maps: The layers behind which a map is taken, finest first, by their names in timm's model.
        options: For ``timm.create_model``.
        bare: Layers whose normalisation has no activation, unlike timm's.
        act: timm's name of the activation layer, or None for the network's own.
        padded_for: Convolutions are padded as images of that side need it, whatever an image's
            size is; None for the network's own padding.
    """

    model: str
    maps: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    bare: tuple[str, ...] = ()
    act: str | None = None
    padded_for: int | None = None


#: Blocks of each stage of EfficientNet-B0 to B8 and L2 (Tan and Le, 2019, table 1, deepened).
_BLOCKS = (
    *((1, 2, 2, 3, 3, 4, 1), (2, 3, 3, 4, 4, 5, 2), (2, 3, 3, 4, 4, 5, 2), (2, 3, 3, 5, 5, 6, 2)),
    *((2, 4, 4, 6, 6, 8, 2), (3, 5, 5, 7, 7, 9, 3), (3, 6, 6, 8, 8, 11, 3)),
    *((4, 7, 7, 10, 10, 13, 4), (4, 8, 8, 11, 11, 15, 4), (6, 11, 11, 16, 16, 22, 6)),
)
#: The side of the images that B0 to B7 were made for.
_SIDES = (224, 240, 260, 300, 380, 456, 528, 600)
_DROP = {"drop_path_rate": 0.2}


def _end_of(stage: int, blocks: tuple[int, ...]) -> str:
    return f"blocks.{stage}.{blocks[stage] - 1}"


def _efficientnets() -> Iterator[tuple[str, Recipe]]:
    sizes = [*(f"b{i}" for i in range(9)), "l2"]
    for i, (size, blocks) in enumerate(zip(sizes, _BLOCKS, strict=True)):
        ends = tuple(_end_of(stage, blocks) for stage in (1, 2, 4, 6))
        yield (
            f"smp_timm_efficientnet_{size}",
            Recipe(f"efficientnet_{size}", ("bn1", *ends), _DROP, act="Swish"),
        )
        if i < len(_SIDES):
            # Of B0 smp takes the map of stride 16 behind the first block of its stage.
            ours = (*ends[:2], "blocks.4.0", ends[3]) if i == 0 else ends
            yield (
                f"smp_efficientnet_{size}",
                Recipe(f"tf_efficientnet_{size}", ("bn1", *ours), _DROP, padded_for=_SIDES[i]),
            )
    for i, blocks in enumerate(_BLOCKS[:5]):
        # The first and the last stage of Lite networks are never deepened.
        ends = tuple(_end_of(stage, (1, *blocks[1:6], 1)) for stage in (1, 2, 4, 6))
        yield (
            f"smp_timm_efficientnet_lite{i}",
            Recipe(f"efficientnet_lite{i}", ("bn1", *ends), _DROP),
        )


def _densenets() -> Iterator[tuple[str, Recipe]]:
    maps = ("norm0", *(f"transition{i}.norm" for i in (1, 2, 3)), "norm5")
    for depth in (121, 161, 169, 201):
        places = tuple(f"features.{name}" for name in maps)
        yield f"smp_densenet{depth}", Recipe(f"densenet{depth}", places, bare=("features.norm5",))


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "tv_mobilenetv3_large": Recipe(
            "mobilenetv3_large_100",
            ("blocks.0.0", "blocks.1.1", "blocks.2.0", "blocks.4.1", "blocks.6.0"),
            {"bn_eps": 1e-3, "bn_momentum": 1e-2},
        ),
        "smp_mobilenet_v2": Recipe(
            "mobilenetv2_100", ("blocks.0.0", "blocks.1.1", "blocks.2.2", "blocks.4.2", "bn2")
        ),
        **dict(_efficientnets()),
        **dict(_densenets()),
    }
)
#: Encoders that come with segzoo and are not timm's: name -> the file here that registers it.
BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        **{f"mit_b{i}": "mix_transformer" for i in range(6)},
        **dict.fromkeys(RECIPES, "tapped"),
    }
)
