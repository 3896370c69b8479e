"""The optimiser: which parameter learns how fast, and which decays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from ..architectures.base import SegmentationModel
from .recipe import Recipe

#: For an encoder that has learned already; see ``encoder_scale`` of the recipe.
PRETRAINED_SCALE = 0.3


def encoder_scale(model: SegmentationModel, recipe: Recipe) -> float:
    """The recipe's, or what suits the weights that the encoder began with."""
    if recipe.encoder_scale is not None:
        return recipe.encoder_scale
    # A model that was loaded tells by its file, which names the repository if there was one.
    began = model.base_model is not None or model.encoder.began_pretrained
    return PRETRAINED_SCALE if began else 1.0


def make_optimizer(
    model: SegmentationModel, recipe: Recipe, learning_rate: float, *, fused: bool = False
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with a group for each learning rate and decay.

    Each group has a ``name``, and as ``peak`` the rate that a schedule is a share of.

    Args:
        model: Whose parameters.
        recipe: How.
        learning_rate: The peak, for decoder and head.
        fused: Whether to step in one pass over the parameters. On CPUs torch's goes through memory
            as it lies: gradients must lie as their parameters do, which is what autograd gives.
    """
    kept = _undecayed(model)
    groups: list[dict[str, Any]] = []
    for group in _by_rate(model, recipe, learning_rate):
        for decays in (True, False):
            chosen = [item for item in group["params"] if (id(item) not in kept) == decays]
            if chosen:
                groups.append(
                    {
                        "name": group["name"] if decays else f"{group['name']}, no decay",
                        "params": chosen,
                        "lr": group["lr"],
                        "peak": group["lr"],
                        "weight_decay": recipe.weight_decay if decays else 0.0,
                    }
                )
    return torch.optim.AdamW(
        groups, lr=learning_rate, weight_decay=recipe.weight_decay, fused=fused
    )


def _by_rate(model: SegmentationModel, recipe: Recipe, rate: float) -> list[dict[str, Any]]:
    if recipe.layer_decay is None:
        return model.parameter_groups(rate, encoder_scale=encoder_scale(model, recipe))
    layers = encoder_layers(model)
    inside = {id(item) for layer in layers for item in layer}
    rest = [item for item in model.parameters() if id(item) not in inside]
    depth = len(layers)
    return [
        {"name": f"layer {i}", "params": layer, "lr": rate * recipe.layer_decay ** (depth - i)}
        for i, layer in enumerate(layers)
    ] + [{"name": "decoder", "params": rest, "lr": rate}]


def encoder_layers(model: SegmentationModel) -> list[list[nn.Parameter]]:
    """The encoder's parameters, layer by layer from the image on; those that no stage has are left.

    Blocks, where the backbone says by itself which layers it has (timm's ``group_matcher``: the
    transformers do), else the stages.
    """
    backbone = model.encoder.backbone
    stages = model.encoder.stages()
    inside = {name for stage in stages for name in stage}
    named = {name: item for name, item in backbone.named_parameters() if name in inside}
    for prefix, module in backbone.named_modules():
        matcher: Any = getattr(module, "group_matcher", None)
        if matcher is None:
            continue
        places: dict[str, int] = group_parameters(module, matcher(coarse=False), reverse=True)
        start = f"{prefix}." if prefix else ""
        last = max(places.values())
        layers: list[list[nn.Parameter]] = [[] for _ in range(last + 1)]
        for name, parameter in named.items():
            # What is not of that module comes after it.
            layers[places.get(name.removeprefix(start), last)].append(parameter)
        return [layer for layer in layers if layer]
    return [[named[name] for name in stage] for stage in stages if stage]


def _undecayed(model: nn.Module) -> set[int]:
    """Biases, scales and shifts, and what a module itself excludes (timm's ``no_weight_decay``)."""
    return {id(item) for item in model.parameters() if item.ndim <= 1} | {
        id(item) for item in _excluded(model)
    }


def _excluded(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        exclude: Any = getattr(module, "no_weight_decay", None)
        if exclude is not None:
            names = exclude()
            own = dict(module.named_parameters())
            yield from (own[name] for name in names if name in own)
