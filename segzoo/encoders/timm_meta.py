"""One of timm's backbones on the meta device, and what it says of itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError, EncoderError, nearest
from ..features import FeatureSpec, is_flat
from .positions import PositionsHaveValues
from .probe import build_on_meta

#: How many blocks of a flat backbone are taken when not told: four, as in DPT (Ranftl et al.,
#: "Vision Transformers for Dense Prediction", 2021, section 3.1).
_FLAT_MAPS = 4


def meta_backbone(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The backbone in eval mode on the meta device, where it has shapes but no values.

    Raises:
        ArgumentError: An option that this backbone does not have.
        EncoderError: timm cannot build it.
    """
    import timm

    try:
        backbone: nn.Module = build_on_meta(
            lambda: timm.create_model(name, features_only=True, **options)
        )
    except TypeError as error:
        known = known_options(name)
        # From Python 3.13 on it makes a suggestion of its own, of what the backbone may not take.
        reason = str(error).partition(". Did you mean")[0]
        unknown = [option for option in options if f"'{option}'" in reason]
        hint = nearest(unknown[0], known) if unknown else ""
        raise ArgumentError(
            f"timm cannot build {name!r} with the options {dict(options)}: {reason}.{hint} "
            f"It knows: {', '.join(known) or 'no options of its own'}."
        ) from error
    except Exception as error:
        reason = str(error) or type(error).__name__  # an assertion may say nothing
        raise EncoderError(
            f"timm cannot build {name!r} with the options {dict(options)}: "
            f"{reason}.{size_hint(options)}"
        ) from error
    return backbone.eval()


def size_hint(options: Mapping[str, Any]) -> str:
    """What to do where a backbone cannot be built, or run, for the size that was asked for."""
    if "img_size" not in options:
        return ""
    return " Give image_size instead of img_size: it finds a size that can be built."


@functools.lru_cache(maxsize=256)
def known_options(name: str) -> tuple[str, ...]:
    """The options of a backbone's own constructor, as far as its signature tells."""
    import timm

    model = build_on_meta(lambda: timm.create_model(name))
    constructor = inspect.signature(type(model).__init__)
    ours = {"self", "in_chans", "num_classes", "global_pool", "device", "dtype"}
    return tuple(
        parameter.name
        for parameter in constructor.parameters.values()
        if parameter.name not in ours and parameter.kind is not parameter.VAR_KEYWORD
    )


def check_output_stride(name: str, given: Mapping[str, Any]) -> None:
    """Whether the deepest map really has the stride that is asked for: declared and measured."""

    def gives(stride: int) -> bool:
        try:
            backbone = meta_backbone(name, {**given, "output_stride": stride})
            with torch.no_grad(), PositionsHaveValues():
                deepest = backbone(torch.empty(1, bands(backbone), 256, 256, device="meta"))[-1]
        except Exception:  # what timm raises for a stride that a backbone cannot have varies
            return False
        sides = deepest.shape[1:3] if is_nhwc(backbone) else deepest.shape[2:4]
        declared = backbone_features(backbone)[-1].stride
        return declared == stride and tuple(sides) == (256 // stride, 256 // stride)

    wanted = given["output_stride"]
    possible = [stride for stride in (8, 16, 32) if gives(stride)]
    if wanted not in possible:
        raise EncoderError(
            f"{name!r} cannot be built with output_stride={wanted!r}; possible: "
            f"{', '.join(map(str, possible)) or 'none but its own, without the option'}."
        )


def chosen_indices(
    name: str,
    backbone: nn.Module,
    depth: int | None,
    given: Mapping[str, Any],
    *,
    coarsest: int | None = None,
    output_stride: int | None = None,
) -> dict[str, Any]:
    """``out_indices`` for timm, ascending, or nothing where its own choice is the right one.

    Args:
        name: For messages.
        backbone: Built with the options in ``given``, but for ``out_indices``.
        depth: How many maps, None for all.
        given: The user's options.
        coarsest: Maps of a larger stride are left out, unless there are no others; None for all.
        output_stride: The largest stride that maps will have, however ``backbone`` is made.
    """
    info: Any = backbone.feature_info
    chosen = _indices(name, info, depth, given)
    if coarsest is not None:
        strides = [item.stride for item in features_at(backbone, chosen)]
        strides = [min(stride, output_stride or stride) for stride in strides]
        limit = max(coarsest, min(strides))
        chosen = tuple(i for i, stride in zip(chosen, strides, strict=True) if stride <= limit)
    told = "out_indices" in given
    return {} if chosen == tuple(info.out_indices) and not told else {"out_indices": chosen}


def _indices(name: str, info: Any, depth: int | None, given: Mapping[str, Any]) -> tuple[int, ...]:
    """Which maps to take, however large their strides are."""
    total = len(info)
    if "out_indices" in given:
        if depth is not None:
            raise ArgumentError("Give depth or encoder_options['out_indices'], not both.")
        return _sorted_indices(name, given["out_indices"], total)
    default = _sorted_indices(name, info.out_indices, total)
    flat = is_flat(info.get("reduction", list(range(total))))
    available = total if flat else len(default)
    if depth is not None and not 1 <= depth <= available:
        raise ArgumentError(
            f"depth must be between 1 and {available} for {name!r} (it gives {available} maps), "
            f"got {depth}."
        )
    if flat:
        # Evenly spread over all blocks, the last one included: 2, 5, 8, 11 of twelve.
        count = depth or min(_FLAT_MAPS, total)
        return tuple(total * (i + 1) // count - 1 for i in range(count))
    return default[:depth]


def _sorted_indices(name: str, indices: Any, total: int) -> tuple[int, ...]:
    """Ascending, each once: timm's maps come in that order whatever order is asked for.

    One number stands for so many of the last, as in timm.
    """
    wanted = indices if isinstance(indices, Sequence) else ()
    if isinstance(indices, int) and not isinstance(indices, bool):
        wanted = range(total - indices, total) if 1 <= indices <= total else ()
    wrong = [
        i
        for i in wanted
        if isinstance(i, bool) or not isinstance(i, int) or not -total <= i < total
    ]
    if wrong or not wanted:
        raise ArgumentError(
            f"out_indices must be integers between {-total} and {total - 1} for {name!r} (it has "
            f"{total} blocks to choose from), got {indices!r}."
        )
    return tuple(sorted({index % total for index in wanted}))


def bands(backbone: nn.Module) -> int:
    """The bands of the images that a backbone made by timm was built for."""
    source: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
    return int(source.get("input_size", (3,))[0])


def backbone_features(backbone: Any) -> tuple[FeatureSpec, ...]:
    """What a backbone made by timm says of its maps."""
    info = backbone.feature_info
    return tuple(map(FeatureSpec, info.channels(), info.reduction()))


def features_at(backbone: Any, indices: Sequence[int] | None) -> tuple[FeatureSpec, ...]:
    """What a backbone made by timm says of these maps, or, with None, of those that it gives."""
    if indices is None:
        return backbone_features(backbone)
    info, chosen = backbone.feature_info, list(indices)
    return tuple(map(FeatureSpec, info.get("num_chs", chosen), info.get("reduction", chosen)))


def is_nhwc(backbone: nn.Module) -> bool:
    """Whether a backbone made by timm gives maps ``(N, H, W, C)``."""
    return getattr(backbone, "output_fmt", "NCHW") == "NHWC"
