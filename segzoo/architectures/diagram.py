"""A model as a drawing: the encoder's maps on the left, the decoder's steps on the right.

Nothing is written down here about any architecture: the model runs once on the meta device, where
only shapes are computed, and what enters and leaves each part of it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..nn.sharing import copied_modules

if TYPE_CHECKING:
    from ..storage.pretrained import StoredModel


@dataclass(frozen=True)
class Step:
    """One part of a model after the encoder.

    Attributes:
        name: As in the model, without ``decoder.`` in front. Parts that give no map are no steps.
        channels: Channels of the map that it gives.
        stride: Pixels of the image for one cell of that map.
        inputs: What enters it from the encoder: indices of ``model.features``, -1 for the image.
    """

    name: str
    channels: int
    stride: int
    inputs: tuple[int, ...]


def diagram(model: StoredModel) -> str:
    """The encoder's maps and the decoder's steps, one row for each stride.

    An arrow leads from a map to the step of the same row that it enters (a skip connection);
    a map that enters a step of another row is named behind that step. Read the left column
    downwards, the right column upwards.
    """
    names = _map_names(model)
    steps = steps_of(model)
    channels = [model.in_channels, *(feature.channels for feature in model.features)]
    strides = [1, *(feature.stride for feature in model.features)]
    rows = [("image", -1), *((name, i) for i, name in enumerate(names))]
    lines: list[tuple[str, str, str, str]] = []
    for stride in sorted({*strides, *(step.stride for step in steps)}):
        here = [(name, i) for name, i in rows if strides[i + 1] == stride]
        inside = {i for _, i in here}
        entered = {i for step in steps if step.stride == stride for i in step.inputs}
        right = " → ".join(
            f"{step.name} {step.channels}{_from(names, step, inside)}"
            for step in steps
            if step.stride == stride
        )
        for name, i in here or [("", 0)]:
            last = not here or i == here[-1][1]
            left = f"{name}  {channels[i + 1]}" if here else ""
            arrow = "───►" if here and i in entered else ""
            lines.append((str(stride) if last else "", left, arrow, right if last else ""))
    heading = ("stride", "encoder", "", "decoder")
    widths = [max(len(line[k]) for line in [heading, *lines]) for k in range(3)]
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    title = (
        f"{type(model).__name__} on {model.encoder.name}: {model.in_channels} bands → "
        f"{model.classes} classes, {millions:.1f} M parameters"
    )
    table = [
        f"{a:>{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip()
        for a, b, c, d in [heading, *lines]
    ]
    return "\n".join([title, "", *table])


def _from(names: list[str], step: Step, inside: set[int]) -> str:
    """The inputs of a step that come from another row."""
    others = [i for i in step.inputs if i not in inside]
    return f" (+ {', '.join('image' if i < 0 else names[i] for i in others)})" if others else ""


def _map_names(model: StoredModel) -> list[str]:
    """What the backbone calls the modules that its maps come from."""
    count = len(model.encoder.features)
    info: Any = getattr(model.encoder.backbone, "feature_info", None)
    names = list(info.module_name()) if hasattr(info, "module_name") else []
    if len(names) != count:
        names = [f"map {i}" for i in range(count)]
    return model.pyramid.named(names)


def _parts(
    model: StoredModel, before: tuple[str, ...] = ("encoder", "pyramid")
) -> Iterator[tuple[str, nn.Module]]:
    """What comes after the encoder, a decoder part by part.

    Args:
        model: Any; a head among several too, which has a pyramid and no encoder.
        before: What gives the maps, and is no step.
    """
    for name, child in model.named_children():
        if name in before:
            continue
        inner = list(child.named_children()) if name in ("decoder", "pyramid") else []
        if not inner and name == "pyramid":
            continue  # it gives the encoder's maps as they are
        for inner_name, part in inner or [(name, child)]:
            if isinstance(part, (nn.ModuleList, nn.ModuleDict)):
                for key, item in part.named_children():
                    step = f"{inner_name}.{key}"
                    if _is_model(item):
                        yield from ((f"{step}.{inside}", one) for inside, one in _parts(item, ()))
                    else:
                        yield step, item
            elif not isinstance(part, nn.Identity):
                yield inner_name, part


def _is_model(module: nn.Module) -> TypeGuard[StoredModel]:
    return hasattr(module, "config")


def steps_of(model: StoredModel) -> tuple[Step, ...]:
    """The parts of a model after the encoder, in the order in which they run."""
    model = copied_modules(model) or model  # the hooks below are not for who runs it meanwhile
    side = 16 * model.features[-1].stride
    dtype = next(model.parameters()).dtype
    image = torch.empty(2, model.in_channels, side, side, device="meta", dtype=dtype)
    image = model.encoder.size_rule.fit(image)
    images: list[Tensor] = []
    maps: list[Tensor] = []
    steps: list[Step] = []

    def keep_image(module: nn.Module, args: Any, output: Any) -> None:
        images.extend(_tensors(args))

    def keep_maps(module: nn.Module, args: Any, output: list[Tensor]) -> None:
        maps.extend(output)

    def record(name: str, args: tuple[Any, ...], output: Tensor) -> None:
        if output.ndim != 4:
            return  # no map
        given = [id(tensor) for tensor in _tensors(args)]
        sources = [(-1, images[0]), *enumerate(maps)]
        inputs = tuple(i for i, tensor in sources if id(tensor) in given)
        stride = round(image.shape[-1] / output.shape[-1])
        steps.append(Step(name, output.shape[1], stride, inputs))

    hooks = [
        model.encoder.register_forward_hook(keep_image),
        model.pyramid.register_forward_hook(keep_maps),
    ]
    for name, part in _parts(model):
        hooks.append(
            part.register_forward_hook(
                lambda _, args, kwargs, output, name=name: record(
                    name, (*args, *kwargs.values()), output
                ),
                with_kwargs=True,
            )
        )
    state = {
        name: tensor.to("meta")
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    try:
        with torch.no_grad():
            functional_call(model, state, (image,))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(steps)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
