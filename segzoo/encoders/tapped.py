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
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ArgumentError, EncoderError
from ..features import FeatureSpec, ceil_div
from .built_in import IMAGENET, maps_wanted, no_weights, share
from .names import ENCODERS
from .probe import build_on_meta
from .recipes import RECIPES, Recipe


class Tapped(nn.Module):
    """The layers of a network that run one after the other, with maps taken behind some of them.

    Args:
        recipe: The network and the places.
        in_channels: Bands of the image.
        options: For ``timm.create_model``.

    Attributes:
        features: What the maps are, finest first.
    """

    normalization = IMAGENET

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
        self.recipe = recipe
        self.in_channels = in_channels

    def whole_state(self) -> dict[str, Tensor]:
        """All tensors that the network has in front of its classifier, on the meta device.

        Named as in the state dict; without values, and with those that no map needs.
        """
        return whole_state(self.recipe, self.in_channels)

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
    from timm.layers import activations

    given = {**recipe.options, **options}
    if recipe.act is not None:
        given["act_layer"] = getattr(activations, recipe.act)
    try:
        made = timm.create_model(model, in_chans=in_channels, **given)
    except TypeError as error:  # not all of them can leave out blocks
        raise ArgumentError(
            f"timm cannot build {model!r} with the options {given}: {error}."
        ) from error
    if recipe.padded_for is not None:
        _pad_for(made, recipe.padded_for)
    for name in recipe.bare:
        layer: Any = made.get_submodule(name)
        layer.act = nn.Identity()
    yield from _flat("", made)


class PaddedConv2d(nn.Conv2d):
    """A strided convolution that is padded by so many cells on each side, whatever its map's size.

    Once it is dilated it has stride 1, and is padded as any other.
    """

    #: Cells left, right, above and below, as in ``torch.nn.functional.pad``.
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out_channels, h, w)``."""
        if self.stride != (1, 1):
            x = F.pad(x, self.pads)
        return super().forward(x)


def _pad_for(network: nn.Module, side: int) -> None:
    """Pad convolutions as TensorFlow does for images of one size, for images of every size."""
    for name, conv in list(network.named_modules()):
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size == (1, 1):
            continue
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        after = ceil_div(side, stride)
        total = max((after - 1) * stride + kernel - side, 0)
        before, behind = total // 2, total - total // 2
        same = PaddedConv2d(
            conv.in_channels, conv.out_channels, kernel, stride, groups=conv.groups, bias=False
        )
        same.weight = conv.weight
        if stride == 1:
            same.padding = (kernel // 2, kernel // 2)
        same.pads = (before, behind, before, behind)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, same)
        side = after


def _flat(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if type(child).forward is nn.Sequential.forward:
            yield from _flat(f"{prefix}{name}.", child)
        else:
            yield f"{prefix}{name}", child


@functools.lru_cache(maxsize=64)
def _shapes(model: str, maps: tuple[str, ...]) -> tuple[FeatureSpec, ...]:
    """What the maps of a network are: asked of it on the meta device."""
    side, x = 64, torch.empty(1, 3, 64, 64, device="meta")
    found: list[FeatureSpec] = []
    with torch.no_grad():
        for name, layer in _on_meta(model, 3).items():
            x = layer(x)
            if name.replace("/", ".") in maps:
                found.append(FeatureSpec(x.shape[1], side // x.shape[-1]))
            if len(found) == len(maps):
                break
    return tuple(found)


@functools.lru_cache(maxsize=64)
def _on_meta(model: str, in_channels: int) -> nn.ModuleDict:
    """The layers of one of timm's networks in front of its classifier, on the meta device.

    Nothing else that a recipe says changes the shape of a tensor or of a map.
    """

    def build() -> nn.ModuleDict:
        layers = _layers(model, Recipe(model, ()), in_channels, {"num_classes": 0})
        return nn.ModuleDict({name.replace(".", "/"): layer for name, layer in layers})

    return build_on_meta(build).eval()


def whole_state(recipe: Recipe, in_channels: int = 3) -> dict[str, Tensor]:
    """All tensors that a network has in front of its classifier, on the meta device.

    Named as in the state dict of a :class:`Tapped`; without values, and with those that no map
    needs.
    """
    state = _on_meta(recipe.model, in_channels).state_dict()
    return {name.replace("/", "_"): value for name, value in state.items()}


def _features(recipe: Recipe) -> tuple[FeatureSpec, ...]:
    return _shapes(recipe.model, recipe.maps)


def _factory(name: str, recipe: Recipe) -> Callable[..., nn.Module]:
    def build(
        in_channels: int = 3,
        pretrained: bool | str = False,
        depth: int | None = None,
        drop_path_rate: float | None = None,
    ) -> Tapped:
        no_weights(name, pretrained)
        options = {}
        if drop_path_rate is not None:
            options["drop_path_rate"] = share("drop_path_rate", drop_path_rate)
        count = maps_wanted(name, len(recipe.maps), depth)
        return Tapped(replace(recipe, maps=recipe.maps[:count]), in_channels, options)

    return build


for _name, _recipe in RECIPES.items():
    ENCODERS.add(_name, _factory(_name, _recipe))
