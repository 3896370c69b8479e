"""smp's encoders as they are here: which ones are the same network, and under what names."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ...encoders import ENCODERS, build_on_meta, timm_meta, timm_source
from ...encoders.recipes import RECIPES
from ...encoders.tapped import Tapped, whole_state
from ...errors import ArgumentError, ConversionError, EncoderError, nearest
from ..keymap import Rule, rename
from .families import FAMILIES, reason_for

#: smp's older names for encoders that it builds with timm itself.
_OLD_TIMM = re.compile(r"timm-(regnet|res2|resnest|mobilenetv3|gernet)(.*)")


@dataclass(frozen=True)
class EncoderPlan:
    """How to build an encoder in segzoo, and to name its tensors.

    Attributes:
        encoder: Its name here.
        in_channels: Bands of the image.
        depth: How many of its maps to use, or None for all.
        options: For ``encoder_options``.
        rules: For names of tensors in the encoder.
        whole: Shapes of all tensors that smp's encoder may have, whatever its depth, by the names
            that the rules make.
        arguments: What the architecture has to be told because of the encoder.
    """

    encoder: str
    in_channels: int
    depth: int | None
    options: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    whole: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


def plan_encoder(
    name: str, tensors: Mapping[str, Tensor], depth: int, options: Mapping[str, Any]
) -> EncoderPlan:
    """How to build smp's encoder of that name and depth.

    Args:
        name: smp's name: ``resnet34``, ``tu-convnext_tiny``.
        tensors: Tensors of the checkpoint, in smp's names.
        depth: smp's ``encoder_depth``.
        options: For ``timm.create_model``.

    Raises:
        ConversionError: It cannot be brought over exactly.
    """
    encoder, _ = here(name)
    strides: Sequence[int] = ()
    if encoder not in ENCODERS:
        try:
            plan = timm_source.plan_backbone(encoder, options=options)
        except (ArgumentError, EncoderError) as error:
            raise ConversionError(f"timm cannot build the encoder {name!r}: {error}") from error
        strides = tuple(feature.stride for feature in plan.features)
    network = _network(name)
    rules, strides = network.rules, strides or network.strides
    wanted = [stride for stride in strides if 2 <= stride <= 2**depth]
    if wanted not in ([2 << i for i in range(depth)], [4 << i for i in range(depth - 1)]):
        raise ConversionError(
            f"The encoder {name!r} gives maps of strides {list(strides)}; a model of smp of depth "
            f"{depth} cannot be built on them."
        )
    chosen: int | None = len(wanted)
    indices: dict[str, Any] = {}
    if strides[0] == 1:  # smp throws away the map at the image's own size
        first = _meta(encoder).feature_info.out_indices
        chosen, indices = None, {"out_indices": tuple(first[1 : depth + 1])}
    elif wanted == list(strides):
        chosen = None
    found = _encoder_tensors(tensors, rules)
    in_channels = bands_of(network.whole, found, name)
    other = network if in_channels == 3 else _network(name, in_channels)
    return EncoderPlan(
        encoder=encoder,
        in_channels=in_channels,
        depth=chosen,
        options={**options, **indices},
        rules=rules,
        whole={key: tuple(value.shape) for key, value in other.whole.items()},
    )


@dataclass(frozen=True)
class _Network:
    """One of smp's encoders, as it is built here.

    Attributes:
        encoder: Its name here.
        strides: Of its maps.
        rules: For names of tensors in the encoder.
        whole: All its tensors, on the meta device, those that no map needs too.
    """

    encoder: str
    strides: tuple[int, ...]
    rules: tuple[Rule, ...]
    whole: Mapping[str, Tensor]


@functools.lru_cache(maxsize=256)
def _network(name: str, in_channels: int = 3) -> _Network:
    """What smp's encoder of that name is here.

    Raises:
        ConversionError: It is not here.
    """
    encoder, rules = here(name)
    if encoder not in ENCODERS:
        meta = timm_meta.meta_backbone(encoder, {"in_chans": in_channels})
        features = timm_meta.backbone_features(meta)
        strides = tuple(feature.stride for feature in features)
        return _Network(encoder, strides, rules, meta.state_dict())
    backbone: Any = build_on_meta(lambda: ENCODERS[encoder](in_channels=in_channels))
    own = next(family for family in FAMILIES if name in family.names)
    if own.rules_of is not None:
        rules = own.rules_of(backbone)
    whole = backbone.whole_state() if isinstance(backbone, Tapped) else backbone.state_dict()
    strides = tuple(feature.stride for feature in backbone.features)
    return _Network(encoder, strides, rules, whole)


def backbone_rules(whole: nn.Module, backbone: nn.Module) -> tuple[Rule, ...]:
    """From the names in one of timm's models to those in what it makes of it for its maps.

    Args:
        whole: What ``timm.create_model`` gives.
        backbone: What it gives with ``features_only=True``.
    """
    inner: dict[str, nn.Module] = dict(backbone.named_children())
    if list(inner) == ["model"]:
        return ((r"^", "model."),)
    # timm takes sequences apart, and joins the names of their parts with an underscore.
    parts = [name for name, _ in whole.named_modules() if "." in name]
    return tuple(
        (rf"^{re.escape(name)}\.", f"{name.replace('.', '_')}.")
        for name in parts
        if name.replace(".", "_") in inner
    )


def here(name: str) -> tuple[str, tuple[Rule, ...]]:
    """The name here of smp's encoder, and rules for its tensors (without ``encoder.``).

    Raises:
        ConversionError: There is no such network here.
    """
    old = _OLD_TIMM.fullmatch(name)
    if old:
        name = f"tu-{'tf_' if old[1] == 'mobilenetv3' else ''}{old[1]}{old[2]}"
    if name.startswith("tu-"):
        return _known(name[3:], name), ((r"^stages\.(\d)", r"stages_\1"),) if old else ()
    for family in FAMILIES:
        if re.fullmatch(family.pattern, name) and (not family.names or name in family.names):
            encoder = re.sub(family.pattern, family.name, name)
            return encoder if family.names else _known(encoder, name), family.rules
    own = [name for family in FAMILIES for name in family.names]
    raise ConversionError(
        f"smp's encoder {name!r} cannot be brought over exactly: {reason_for(name)}."
        f"{nearest(name, own)} What can be: encoders whose name begins with tu-, and resnet, "
        "resnext, se_resnet, se_resnext, senet, vgg, mit, efficientnet, timm-efficientnet, "
        "mobilenet_v2 and densenet."
    )


def is_here(name: str, encoder: str) -> bool:
    """Whether smp's encoder ``name`` is the network that is called ``encoder`` here."""
    try:
        return here(name)[0] == encoder
    except ConversionError:
        return False


def dilation_of(name: str, output_stride: int) -> str:
    """How smp dilates an encoder: one of :data:`~segzoo.config.DILATIONS`.

    Raises:
        ConversionError: In a way that is not known here.
    """
    least = max((item.least_stride for item in FAMILIES if name in item.names), default=8)
    if output_stride < least:
        raise ConversionError(
            f"smp's encoder {name!r} with an output stride of {output_stride} cannot be brought "
            f"over exactly: smp's dilation pads some of its layers otherwise. {least} can be."
        )
    return "timm" if name.startswith("tu-") or _OLD_TIMM.fullmatch(name) else "convolutions"


def recognise_encoder(tensors: Mapping[str, Tensor], where: str) -> str:
    """smp's name of the encoder that has exactly these tensors.

    Raises:
        ConversionError: None has, or more than one.
    """
    hint = (
        "Give its name, as smp has it: config={'encoder_name': 'tu-convnext_tiny'}, on the command "
        "line --encoder tu-convnext_tiny, or put smp's config.json beside the checkpoint."
    )
    if any(name.startswith("encoder.model.") for name in tensors):
        raise ConversionError(
            f"{where} has an encoder of timm, and tensors do not tell which: several differ only "
            f"in what has no weights. {hint}"
        )
    own = [name for family in FAMILIES for name in family.names]
    found = next((name for name in own if _fits(name, tensors)), None)
    if found is not None:  # no two of them have the same tensors
        return found
    fitting = [name for name in candidates() if _fits(name, tensors)]
    if len(fitting) != 1:
        raise ConversionError(
            f"The encoder of {where} is not one that is known by its tensors "
            f"({', '.join(fitting) or 'none fits'}). {hint}"
        )
    return fitting[0]


@functools.lru_cache(maxsize=1)
def candidates() -> tuple[str, ...]:
    """smp's own encoders that are timm's, found by turning timm's names into smp's."""
    import timm

    names = []
    for name in timm.list_models():
        smp_name = re.sub(r"^legacy_se(?=res)", "se_", re.sub(r"^legacy_(?=senet)", "", name))
        for family in FAMILIES:
            if (
                not family.names
                and re.fullmatch(family.pattern, smp_name)
                and re.sub(family.pattern, family.name, smp_name) == name
            ):
                names.append(smp_name)
    return tuple(names)


def _fits(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the encoder's tensors are exactly those of a network here, but for the bands."""
    family = next((item for item in FAMILIES if name in item.names), None)
    if family is not None and f"encoder.{family.typical}" not in tensors:
        return False
    recipe = RECIPES.get(here(name)[0])
    # Rules change names, not numbers; to build the whole encoder takes longer.
    if recipe is not None and len(whole_state(recipe)) != len(_encoder_tensors(tensors, ())):
        return False
    network = _network(name)
    found = _encoder_tensors(tensors, network.rules)
    return found.keys() == network.whole.keys() and all(
        found[key].shape == value.shape or _is_other_bands(found[key], value)
        for key, value in network.whole.items()
    )


def bands_of(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str) -> int:
    """The number of bands: the only thing in which a first convolution differs from timm's.

    Args:
        expected: Tensors of the encoder for three bands.
        tensors: Those of the checkpoint, by the same names.
        name: smp's name of the encoder, for messages.

    Raises:
        ConversionError: They differ in more.
    """
    found = {
        tensors[key].shape[1]
        for key, value in expected.items()
        if key in tensors and _is_other_bands(tensors[key], value)
    }
    if len(found) > 1:
        raise ConversionError(f"The tensors are not those of the encoder {name!r}.")
    return found.pop() if found else 3


def _is_other_bands(found: Tensor, value: Tensor) -> bool:
    return (
        found.ndim == value.ndim == 4
        and value.shape[1] == 3
        and found.shape != value.shape
        and found.shape[0] == value.shape[0]
        and found.shape[2:] == value.shape[2:]
    )


def _encoder_tensors(tensors: Mapping[str, Tensor], rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    inside = {name: value for name, value in tensors.items() if name.startswith("encoder.")}
    return rename(inside, ((r"^encoder\.(?:model\.)?", ""), *rules))


@functools.lru_cache(maxsize=64)
def _meta(encoder: str) -> Any:
    return timm_meta.meta_backbone(encoder, {})


def _known(name: str, smp_name: str) -> str:
    if not timm_source.is_timm_name(name):
        import timm

        raise ConversionError(
            f"smp's encoder {smp_name!r} is not in this version of timm, which has no {name!r}."
            f"{nearest(name, timm.list_models())}"
        )
    return name
