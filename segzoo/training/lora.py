"""LoRA: small matrices beside an encoder's layers learn in their place, and are added to them.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022, section 4.1. The layers are
those of peft; here they find their places in an encoder, and become a plain model again.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from torch import nn

from .. import checks
from ..architectures.base import SegmentationModel
from ..errors import ArgumentError, UnknownNameError, nearest
from ..packages import load_package

ModelT = TypeVar("ModelT", bound=SegmentationModel)

#: Layers that can be adapted.
_KINDS = (nn.Linear, nn.Conv2d)


def add_lora(
    model: ModelT,
    targets: Sequence[str] = ("qkv", "attn.proj"),
    *,
    rank: int = 8,
    alpha: int | None = None,
    dropout: float = 0.0,
) -> ModelT:
    """Adapt layers of a model's encoder, whose own weights stand still; returns the model.

    What follows the encoder learns as ever. :func:`segzoo.train` saves the plain model that
    :func:`merge_lora` makes of it. Of an encoder that was frozen before, the weights go on standing
    still and the matrices learn: :meth:`~segzoo.SegmentationModel.unfreeze_encoder` has nothing
    left to give back.

    >>> model = segzoo.add_lora(segzoo.LinearHead("test_vit", classes=3), rank=4)
    >>> sum(item.numel() for item in model.encoder.parameters() if item.requires_grad)
    9216

    Args:
        model: Is changed in place; its outputs stay what they are until it learns.
        targets: What layers are called, the end of their names: ``qkv`` and ``attn.proj`` are those
            of attention in most of timm's transformers.
        rank: Of the matrices, 1 or more.
        alpha: They are multiplied by ``alpha / rank``; None for ``2 * rank``.
        dropout: Probability of dropping an input of theirs in training, 0 to 1.

    Raises:
        UnknownNameError: No layer is called so; the message has the names there are.
        ArgumentError: A value out of its range, a convolution with groups, or a model that is
            adapted already.
        MissingPackageError: peft is not installed.
    """
    checks.integer("rank", rank, minimum=1, maximum=2**20)
    scale = 2 * rank if alpha is None else alpha
    checks.integer("alpha", scale, minimum=1, maximum=2**30)
    dropout = checks.number("dropout", dropout, minimum=0, maximum=1)
    names = checks.sequence("targets", targets, checks.text)
    if next(adapted_layers(model), None) is not None:
        raise ArgumentError(
            "The model has LoRA already. Make a plain one of it first: segzoo.merge_lora(model)."
        )
    _check_targets(model, names)
    peft: Any = load_package("peft", extra="lora")
    config = peft.LoraConfig(
        r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules=list(names), bias="none"
    )
    # Frozen stages would stand still as a whole, the matrices in them too, once a training begins.
    model.encoder.unfreeze()
    peft.inject_adapter_in_model(config, model.encoder)
    return model


def _check_targets(model: SegmentationModel, names: Sequence[str]) -> None:
    layers = {
        name: part for name, part in model.encoder.named_modules() if isinstance(part, _KINDS)
    }
    ends = Counter(name.rpartition(".")[2] for name in layers)
    for target in names:
        meant = {name: part for name, part in layers.items() if f".{name}".endswith(f".{target}")}
        for name, part in meant.items():
            if getattr(part, "groups", 1) > 1:
                raise ArgumentError(
                    f"{target!r} names {name}, a convolution of {part.groups} groups, whose LoRA "
                    "could not be merged into it again. Name other layers."
                )
        if not meant:
            there = ", ".join(f"{name} ({count})" for name, count in ends.most_common(24))
            raise UnknownNameError(
                f"No layer of the encoder {model.encoder.name!r} is called {target!r}."
                f"{nearest(target, ends)} There are: {there or 'none that can be adapted'}."
            )
    if not names:
        raise ArgumentError("targets names no layer.")


def merge_lora(model: nn.Module) -> SegmentationModel:
    """A plain model with what LoRA has learned in its weights; in eval mode.

    Its outputs are those of the adapted model, up to the rounding of sums. It is saved, loaded and
    trained as any model.

    Args:
        model: A model of segzoo with LoRA, by :func:`add_lora` or by peft itself
            (``get_peft_model``, ``inject_adapter_in_model``); it stays as it is.

    Raises:
        ArgumentError: There is no model of segzoo in it, or no LoRA, or its weights are not finite.
    """
    inner = next((part for part in model.modules() if isinstance(part, SegmentationModel)), None)
    if inner is None:
        raise ArgumentError(f"There is no model of segzoo in this {type(model).__name__}.")
    if next(adapted_layers(inner), None) is None:
        raise ArgumentError(
            f"There is no LoRA in this {type(inner).__name__}. Add some with segzoo.add_lora."
        )
    merged = copy.deepcopy(inner)
    try:
        _unwrap(merged)
    except ValueError as error:  # peft's, of what is not finite
        raise ArgumentError(f"LoRA cannot be merged: {error}.") from error
    for part in merged.modules():
        vars(part).pop("peft_config", None)
    merged.encoder.unfreeze()
    return merged.requires_grad_(True).eval()


def _unwrap(module: nn.Module) -> None:
    """Put plain layers in the place of peft's."""
    for name, child in list(module.named_children()):
        kept: Any = getattr(child, "modules_to_save", None)
        if _is_adapted(child):
            layer: Any = child
            layer.merge(safe_merge=True)
            setattr(module, name, layer.get_base_layer())
        elif isinstance(kept, nn.ModuleDict) and len(kept):  # a copy that was trained as a whole
            setattr(module, name, next(iter(kept.values())))
        else:
            _unwrap(child)


def _is_adapted(part: nn.Module) -> bool:
    return hasattr(part, "get_base_layer") and hasattr(part, "merge")


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers with LoRA, by name."""
    return ((name, part) for name, part in model.named_modules() if _is_adapted(part))


def plain(model: SegmentationModel) -> SegmentationModel:
    """The model, or of one with LoRA a new one that can be saved."""
    return model if next(adapted_layers(model), None) is None else merge_lora(model)


def lora_key(model: SegmentationModel) -> str | None:
    """What tells one way to adapt a model from another; None without LoRA."""
    layers = [
        f"{name} {item} {tuple(weight.shape)} {getattr(layer, 'scaling', None)}"
        for name, layer in adapted_layers(model)
        for item, weight in layer.named_parameters()
        if weight.requires_grad
    ]
    if not layers:
        return None
    return f"{len(layers)} matrices, {hashlib.sha256(repr(layers).encode()).hexdigest()[:16]}"
