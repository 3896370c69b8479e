"""How far an encoder shrinks the image: late stages dilated instead of strided.

A stage that shrinks the image no further has to spread its convolutions instead, so that they see
as much of the image as before: the "algorithme à trous" of Chen et al., "Rethinking Atrous
Convolution for Semantic Image Segmentation", 2017, section 3.1. Two methods are known here. They
need the same weights and give different maps:

``timm``
    timm's own option ``output_stride``: the first convolutions of a dilated stage keep the rate of
    the stage before, as the values that they see were trained for.
``convolutions``
    Every convolution of a dilated stage gets stride 1 and the stage's full rate, as
    segmentation_models_pytorch does. It needs nothing of a backbone but that only convolutions and
    max poolings shrink its maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..config import DILATIONS, OUTPUT_STRIDES
from ..features import FeatureSpec, ceil_div
from .positions import PositionsHaveValues
from .probe import on_meta
from .sizes import Size, SizeRule
from .stages import parameter_stages

#: Even and odd sides, of which the largest are divided by every stride that can be asked for.
_SIZES: tuple[Size, ...] = ((256, 320), (250, 317), (131, 97))


@dataclass(frozen=True)
class OutputStride:
    """An output stride that is asked of an encoder.

    Args:
        stride: One of :data:`~segzoo.config.OUTPUT_STRIDES`.
        dilation: How it is to be had, one of :data:`~segzoo.config.DILATIONS`; None for the first
            that works.
        required: Whether nothing else will do; else the next larger one that can be had.
    """

    stride: int
    dilation: str | None = None
    required: bool = True

    def tries(self) -> Iterator[tuple[int, str]]:
        """What to try, the best first: strides, and the dilation for them."""
        methods = [item for item in DILATIONS if item in ("none", self.dilation or item)]
        for stride in OUTPUT_STRIDES:
            if stride == self.stride or (stride > self.stride and not self.required):
                yield from ((stride, method) for method in methods)

    def others(self) -> Iterator[OutputStride]:
        """The same for each other stride."""
        return (replace(self, stride=item) for item in OUTPUT_STRIDES if item != self.stride)


@dataclass(frozen=True)
class Dilated:
    """What was done to an encoder, so that it shrinks the image no further than asked.

    Attributes:
        output_stride: The stride of its deepest maps.
        dilation: How, one of :data:`~segzoo.config.DILATIONS`.
        made_for: The strides that its maps have without dilation.
    """

    output_stride: int
    dilation: str
    made_for: tuple[int, ...]


def not_had(asked: OutputStride, name: str, possible: Sequence[int], strides: Sequence[int]) -> str:
    """The message where an encoder cannot have an output stride.

    Args:
        asked: What was asked for.
        name: The encoder.
        possible: The output strides that it can have.
        strides: The strides of its maps, finest first, which no dilation changes.
    """
    how = f" by dilation={asked.dilation!r}" if asked.dilation else ""
    can = f"it ends at stride {strides[-1]} whatever is asked for."
    if possible:
        *first, last = map(str, possible)
        can = f"{', '.join(first)} and {last} can." if first else f"{last} can."
    fewer = " Fewer maps (depth) end at a smaller stride too." if strides[0] < strides[-1] else ""
    return f"output_stride={asked.stride} cannot be had with {name!r}{how}; {can}{fewer}"


@dataclass(frozen=True)
class Change:
    """What becomes of a convolution or a max pooling when its stage is dilated.

    Args:
        name: The module's name in the backbone.
        stride: Its stride from then on.
        dilation: Its dilation from then on.
        padding: Its padding from then on.
    """

    name: str
    stride: Any
    dilation: Any
    padding: Any


def apply(changes: Sequence[Change], backbone: nn.Module) -> None:
    """Make the layers of a backbone what the changes say."""
    for change in changes:
        layer: Any = backbone.get_submodule(change.name)
        layer.stride, layer.dilation, layer.padding = change.stride, change.dilation, change.padding


def dilated(features: Sequence[FeatureSpec], stride: int) -> tuple[FeatureSpec, ...]:
    """What the maps are when no stage goes beyond a stride."""
    return tuple(replace(item, stride=min(item.stride, stride)) for item in features)


def dilate(
    backbone: nn.Module,
    features: Sequence[FeatureSpec],
    stride: int,
    in_channels: int,
    size_rule: SizeRule,
    channels_last: bool,
) -> tuple[Change, ...] | None:
    """Give the convolutions of all stages beyond ``stride`` stride 1 and the stage's rate.

    Which they are is asked of the gradients; see :func:`~segzoo.encoders.stages.parameter_stages`.
    Max poolings, which have no gradients of their own, go by the size of what they give.

    Args:
        backbone: In eval mode; it is changed in place, unless None is returned.
        features: Its maps as it is made.
        stride: The output stride, smaller than that of the deepest map.
        in_channels: Bands of its images.
        size_rule: Which images it takes.
        channels_last: Its maps are ``(N, H, W, C)``.

    Returns:
        What was changed, to be repeated on a backbone of the same layers; or None where that
        does not give maps of the right sizes: where something else shrinks the maps too, or a
        stage shrinks them across the output stride.
    """
    if stride not in (item.stride for item in features):
        return None
    try:
        stages = parameter_stages(backbone, in_channels, size_rule)
    except Exception:  # a forward that reads pixels, which the meta device has none of
        return None
    rates = {
        name: item.stride // stride
        for names, item in zip(stages, features, strict=True)
        for name in names
        if item.stride > stride
    }
    # The poolings are found while all strides are as made: once convolutions have changed, maps are
    # larger, and their sizes no longer tell which poolings are late.
    changes = [
        _dense_pooling(name, module)
        for name, module in _late_poolings(backbone, stride, in_channels, size_rule)
    ]
    for name, module in backbone.named_modules():
        inside = [rates[key] for key, _ in module.named_parameters(name) if key in rates]
        if inside and isinstance(module, nn.Conv2d):
            changes.append(_spread(name, module, inside[0]))
    before = [_as_it_is(item.name, backbone.get_submodule(item.name)) for item in changes]
    apply(changes, backbone)
    run, _ = on_meta(backbone)
    if is_had(run, dilated(features, stride), stride, in_channels, size_rule, channels_last):
        return tuple(changes)
    apply(before, backbone)
    return None


@torch.no_grad()
def _late_poolings(
    backbone: nn.Module, stride: int, in_channels: int, size_rule: SizeRule
) -> list[tuple[str, nn.MaxPool2d]]:
    """The max poolings that give maps of a larger stride."""
    found: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, made, name=name: found.update({name: made}))
        for name, module in _poolings(backbone)
    ]
    image = size_rule.fit(torch.empty(2, in_channels, *_SIZES[0], device="meta"))
    run, _ = on_meta(backbone)
    try:
        if hooks:
            with PositionsHaveValues():
                run(image)
    finally:
        for hook in hooks:
            hook.remove()
    late = [name for name, made in found.items() if stride * made.shape[-1] < image.shape[-1]]
    return [(name, item) for name, item in _poolings(backbone) if name in late]


def _poolings(backbone: nn.Module) -> Iterator[tuple[str, nn.MaxPool2d]]:
    for name, module in backbone.named_modules():
        if isinstance(module, nn.MaxPool2d):
            yield name, module


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _dense_pooling(name: str, pooling: nn.MaxPool2d) -> Change:
    """A max pooling that keeps the size of its map, and its window as far as torch can.

    As in the first DeepLab (Chen et al., "Semantic Image Segmentation with Deep Convolutional
    Nets and Fully Connected CRFs", 2015, section 3.1), where VGG's last poolings do not shrink any
    more. An even window is spread, because no map can be padded by half a cell.
    """
    window = _pair(pooling.kernel_size)
    dilation = tuple(1 if side % 2 else 2 for side in window)
    padding = tuple((side - 1) * item // 2 for side, item in zip(window, dilation, strict=True))
    return Change(name, (1, 1), dilation, padding)


def _as_it_is(name: str, layer: Any) -> Change:
    return Change(name, layer.stride, layer.dilation, layer.padding)


def _spread(name: str, conv: nn.Conv2d, rate: int) -> Change:
    """A convolution that sees as much of the image as before, and keeps the size of its map."""
    dilation = tuple(rate * item for item in conv.dilation)
    reach = [(side - 1) * item for side, item in zip(conv.kernel_size, dilation, strict=True)]
    spread = Change(name, (1, 1), dilation, tuple(item // 2 for item in reach))
    # Some convolutions pad the map themselves, for the stride and dilation that they have.
    alone = replace(spread, padding=conv.padding)
    return alone if _keeps_size(conv, alone) else spread


def _keeps_size(conv: nn.Conv2d, change: Change) -> bool:
    """Whether a convolution, once changed, gives a map of the size of its input."""
    before = _as_it_is("", conv)
    # Larger than the window reaches, so that a map is not too small whatever the padding is.
    side = 2 * max(k * d for k, d in zip(conv.kernel_size, change.dilation, strict=True))
    values = {name: torch.empty_like(p, device="meta") for name, p in conv.named_parameters()}
    image = torch.empty(1, conv.in_channels, side, side, device="meta")
    apply([replace(change, name="")], conv)
    # Run, not computed from its fields: a subclass may pad in its forward.
    try:
        with torch.no_grad():
            made: Tensor = functional_call(conv, values, (image,))
    finally:
        apply([before], conv)
    return made.shape[-2:] == image.shape[-2:]


def is_had(
    run: Callable[[Tensor], Sequence[Tensor]],
    features: Sequence[FeatureSpec],
    stride: int,
    in_channels: int,
    size_rule: SizeRule,
    channels_last: bool,
) -> bool:
    """Whether a backbone gives the maps that a dilated one has to, at even and at odd sizes.

    Args:
        run: Runs the backbone on the meta device.
        features: What its maps have to be.
        stride: The output stride: all maps that have it have one size.
        in_channels: Bands of its images.
        size_rule: Which images it takes.
        channels_last: Its maps are ``(N, H, W, C)``.
    """
    smallest = (size_rule.minimum, size_rule.minimum)
    for size in (*_SIZES, smallest):
        image = size_rule.fit(torch.empty(2, in_channels, *size, device="meta"))
        try:
            with torch.no_grad(), PositionsHaveValues():
                maps = run(image)
        except Exception:  # a backbone may fail in any way at a size that it does not take
            return False
        if len(maps) != len(features):
            return False
        shapes = [item.shape[1:3] if channels_last else item.shape[2:4] for item in maps]
        sides = image.shape[-2:]
        for shape, feature in zip(shapes, features, strict=True):
            # Rounded down or up, as the backbone likes: a decoder takes the sizes of real maps.
            whole = [side // feature.stride for side in sides]
            cells = [ceil_div(side, feature.stride) for side in sides]
            if not all(a <= x <= b for a, x, b in zip(whole, shape, cells, strict=True)):
                return False
        # These lie on one grid, or no decoder could join them: roundings may differ at odd sizes.
        deep = [tuple(s) for s, f in zip(shapes, features, strict=True) if f.stride == stride]
        if len(set(deep)) > 1:
            return False
    return True
