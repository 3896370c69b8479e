"""timm's backbones: everything that a decoder must know is asked of the backbone itself.

Each backbone is first built on the meta device, where it has shapes but no values, which takes a
few hundredths of a second; its maps, its size rule and the options that make it take more sizes
are found there by trying. timm is imported when the first backbone is asked for.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, EncoderError, UnknownNameError, nearest
from ..features import FeatureSpec
from ..files.hub import hub_errors
from ..preprocessing import IDENTITY, Normalization
from .encoder import Encoder
from .own_weights import HUB_PREFIX, build_with_weights
from .probe import parameter_count
from .sizes import Size, SizeRule
from .timm_flexible import check_bands, most_flexible
from .timm_meta import backbone_features, check_output_stride, is_nhwc, meta_backbone, taps

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

#: Options that decide what is read from disk or network, or what the encoder sets itself.
_RESERVED = frozenset(
    {
        *("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
        *("exportable", "feature_cls", "features_only", "in_chans", "model_name", "no_jit"),
        "scriptable",
    }
)


@dataclass(frozen=True)
class BackbonePlan:
    """All that is known of a backbone before its weights exist."""

    name: str
    options: Mapping[str, Any]
    features: tuple[FeatureSpec, ...]
    size_rule: SizeRule
    channels_last: bool
    parameters: int
    source: PretrainedCfg


def is_timm_name(name: str) -> bool:
    """Whether timm has an architecture of that name (a ``.tag`` is not looked at)."""
    import timm

    return timm.is_model(name.partition(".")[0])


def full_name(name: str) -> str:
    """``architecture.tag``, the tag being timm's default where none is given.

    Raises:
        UnknownNameError: timm has no such architecture, or no such tag of it.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownNameError(
            f"There is no encoder {name!r}.{nearest(architecture, timm.list_models())} "
            "segzoo.list_encoders() gives all names."
        )
    tags = pretrained_tags(architecture)
    if tag:
        if tag not in tags:
            raise UnknownNameError(
                f"The encoder {architecture!r} has no pretrained tag {tag!r}.{nearest(tag, tags)} "
                f"It has: {', '.join(tags) or 'none'}."
            )
        return name
    default = timm.get_pretrained_cfg(architecture)
    # The tag of a configuration without weights ("untrained") would not be found again.
    if default is None or default.tag not in tags:
        return architecture
    return f"{architecture}.{default.tag}"


def pretrained_tags(architecture: str) -> tuple[str, ...]:
    """The tags of the weights that timm knows for an architecture, its default first."""
    import timm

    names = timm.list_models(architecture, pretrained=True)
    tags = [name.partition(".")[2] for name in names if name.partition(".")[0] == architecture]
    default = timm.get_pretrained_cfg(architecture)
    first = default.tag if default is not None else None
    return tuple(sorted(filter(None, tags), key=lambda tag: (tag != first, tag)))


def default_licenses() -> dict[str, str | None]:
    """Each architecture for which timm knows weights -> the licence of its default weights."""
    import timm

    names = {name.partition(".")[0] for name in timm.list_models(pretrained=True)}
    configs = {name: timm.get_pretrained_cfg(name) for name in names}
    return {name: config.license if config else None for name, config in configs.items()}


def build(
    name: str,
    *,
    in_channels: int = 3,
    pretrained: bool | str = False,
    depth: int | None = None,
    image_size: Size | None = None,
    options: Mapping[str, Any] | None = None,
) -> Encoder:
    """An :class:`Encoder` around ``timm.create_model(name, features_only=True)``."""
    import timm

    plan = plan_backbone(name, depth=depth, image_size=image_size, options=options)
    if in_channels != plan.source.input_size[0]:
        _check_bands(plan.name, json.dumps(dict(plan.options)), plan.size_rule, in_channels)
    if isinstance(pretrained, str):
        backbone = build_with_weights(plan.name, pretrained, in_channels, plan.options)
    elif pretrained and not pretrained_tags(plan.name.partition(".")[0]):
        raise EncoderError(
            f"timm has no pretrained weights for {name!r}; build it with pretrained=False, or see "
            "segzoo.list_encoders(pretrained=True)."
        )
    else:
        fetching = hub_errors(f"load the pretrained weights of {plan.name!r}")
        with fetching if pretrained else contextlib.nullcontext():
            backbone = timm.create_model(
                plan.name,
                pretrained=pretrained,
                features_only=True,
                in_chans=in_channels,
                **plan.options,
            )
    return Encoder(
        backbone,
        plan.features,
        name=plan.name,
        in_channels=in_channels,
        normalization=_normalization(plan.source),
        size_rule=plan.size_rule,
        channels_last=plan.channels_last,
        base_model=_base_model(plan, pretrained),
    )


def _base_model(plan: BackbonePlan, pretrained: bool | str) -> str | None:
    """The Hub repository that the weights came from, or None."""
    if isinstance(pretrained, str):
        return pretrained.removeprefix(HUB_PREFIX) if pretrained.startswith(HUB_PREFIX) else None
    return f"timm/{plan.name}" if pretrained and plan.source.hf_hub_id else None


def plan_backbone(
    name: str,
    *,
    depth: int | None = None,
    image_size: Size | None = None,
    options: Mapping[str, Any] | None = None,
) -> BackbonePlan:
    """Find out about a backbone without allocating its weights; remembered for the process.

    Args:
        name: timm's name, with or without a tag.
        depth: How many maps, counted from the image; None for all that timm gives.
        image_size: ``(height, width)`` to build it for, where it is built for a size.
        options: What else goes to ``timm.create_model``.

    Raises:
        UnknownNameError: An unknown name or tag.
        ArgumentError: A depth or an option that it cannot have.
        EncoderError: timm cannot build or run it.
    """
    plan = _plan(full_name(name), depth, image_size, json.dumps(dict(options or {})))
    # What timm is given it may change; what is remembered stays.
    return replace(plan, options=copy.deepcopy(dict(plan.options)))


@functools.lru_cache(maxsize=4096)
def _plan(name: str, depth: int | None, image_size: Size | None, options: str) -> BackbonePlan:
    import timm

    given = json.loads(options)
    for option in sorted(_RESERVED & given.keys()):
        raise ArgumentError(
            f"encoder_options cannot hold {option!r}: segzoo sets it itself, or it would name a "
            "file to read."
        )
    if "output_stride" in given:
        check_output_stride(name, given)
    source = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    others = {option: value for option, value in given.items() if option != "out_indices"}
    plain = meta_backbone(name, others)
    chosen = given | taps(name, plain, depth, given)
    meta, rule, final = most_flexible(
        name,
        chosen,
        source.input_size[-2:],
        image_size,
        plain=plain if chosen == others else None,
    )
    return BackbonePlan(
        name=name,
        options=final,
        features=backbone_features(meta),
        size_rule=rule,
        channels_last=is_nhwc(meta),
        parameters=parameter_count(meta),
        source=source,
    )


@functools.lru_cache(maxsize=4096)
def _check_bands(name: str, options: str, rule: SizeRule, in_channels: int) -> None:
    import timm

    source = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    check_bands(name, json.loads(options), rule, source.input_size[0], in_channels)


@functools.lru_cache(maxsize=4096)
def outline(name: str) -> tuple[tuple[FeatureSpec, ...], int]:
    """The maps and the number of weights, from a build; nothing is run to find out more.

    Raises:
        EncoderError: timm cannot build it.
    """
    plain = meta_backbone(name, {})
    chosen = taps(name, plain, None, {})
    meta = meta_backbone(name, chosen) if chosen else plain
    return backbone_features(meta), parameter_count(meta)


def _normalization(source: PretrainedCfg) -> Normalization:
    return Normalization(tuple(source.mean), tuple(source.std)) if source.mean else IDENTITY
