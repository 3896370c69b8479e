"""timm's networks with their maps taken where another library takes them.

Which ones, and where, says :data:`~segzoo.encoders.recipes.RECIPES`. timm's own way to choose maps
knows the ends of stages only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, EncoderError
from ..features import FeatureSpec
from ..preprocessing import Normalization
from .catalog import ENCODERS
from .probe import build_on_meta
from .recipes import RECIPES, Recipe

#: What torchvision and segmentation_models_pytorch train these with.
_IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Tapped(nn.Module):
    """The layers of a network that run one after the other, with maps taken behind some of them.

    Args:
        recipe: The network and the places.
        in_channels: Bands of the image.
        options: For ``timm.create_model``.

    Attributes:
        features: What the maps are, finest first.
    """

    normalization = _IMAGENET

    def __init__(self, recipe: Recipe, in_channels: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.steps: tuple[tuple[str, bool], ...] = ()
        left = list(recipe.maps)
        for name, layer in _layers(recipe.model, recipe, in_channels, options):
            if not left:
                break
            taken = name == left[0]
            if taken:
                del left[0]
            key = name.replace(".", "_")
            self.add_module(key, layer)
            self.steps += ((key, taken),)
        if left:
            raise EncoderError(f"This version of timm has no layer {left[0]} in {recipe.model!r}.")
        self.features = _features(recipe)

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(N, in_channels, H, W)`` -> a map for each of :attr:`features`."""
        maps: list[Tensor] = []
        x = image
        for name, taken in self.steps:
            x = getattr(self, name)(x)
            if taken:
                maps.append(x)
        return maps


def _layers(
    model: str, recipe: Recipe, in_channels: int, options: dict[str, Any]
) -> Iterator[tuple[str, nn.Module]]:
    """The layers of one of timm's networks as they run, sequences taken apart."""
    import timm

    made = timm.create_model(model, in_chans=in_channels, **{**recipe.options, **options})
    for name in recipe.bare:
        layer: Any = made.get_submodule(name)
        layer.act = nn.Identity()
    yield from _flat("", made)


def _flat(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if type(child).forward is nn.Sequential.forward:
            yield from _flat(f"{prefix}{name}.", child)
        else:
            yield f"{prefix}{name}", child


@functools.lru_cache(maxsize=64)
def _shapes(model: str, maps: tuple[str, ...]) -> tuple[FeatureSpec, ...]:
    """What the maps of a network are: asked of it on the meta device."""
    recipe = Recipe(model, maps)
    side, x = 64, torch.empty(1, 3, 64, 64, device="meta")
    found: list[FeatureSpec] = []
    layers = build_on_meta(lambda: nn.ModuleDict(_named(recipe)))
    with torch.no_grad():
        for name, layer in layers.eval().items():
            x = layer(x)
            if name.replace("/", ".") in maps:
                found.append(FeatureSpec(x.shape[1], side // x.shape[-1]))
            if len(found) == len(maps):
                break
    return tuple(found)


def _named(recipe: Recipe) -> dict[str, nn.Module]:
    layers = _layers(recipe.model, recipe, 3, {})
    return {name.replace(".", "/"): layer for name, layer in layers}


def _features(recipe: Recipe) -> tuple[FeatureSpec, ...]:
    return _shapes(recipe.model, recipe.maps)


def no_weights(name: str, pretrained: bool | str) -> None:
    """Refuse weights for an encoder that has none to download.

    Raises:
        EncoderError: Some are asked for.
    """
    if pretrained:
        raise EncoderError(
            f"There are no pretrained weights for {name!r} alone: build it with pretrained=False, "
            "or bring over a whole model with segzoo.convert."
        )


def cut(name: str, count: int, depth: int | None) -> int:
    """How many of an encoder's ``count`` maps are wanted.

    Raises:
        ArgumentError: It has not that many.
    """
    if depth is None:
        return count
    if not 1 <= depth <= count:
        raise ArgumentError(
            f"depth must be between 1 and {count} for {name!r} (it gives {count} maps), got "
            f"{depth}."
        )
    return depth


def _factory(name: str, recipe: Recipe) -> Callable[..., nn.Module]:
    def build(
        in_channels: int = 3,
        pretrained: bool | str = False,
        depth: int | None = None,
        drop_path_rate: float | None = None,
    ) -> Tapped:
        no_weights(name, pretrained)
        options = {} if drop_path_rate is None else {"drop_path_rate": drop_path_rate}
        count = cut(name, len(recipe.maps), depth)
        return Tapped(replace(recipe, maps=recipe.maps[:count]), in_channels, options)

    return build


for _name, _recipe in RECIPES.items():
    ENCODERS.add(_name, _factory(_name, _recipe))
