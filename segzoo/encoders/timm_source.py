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

from .. import checks
from ..errors import ArgumentError, EncoderError, UnknownNameError, nearest
from ..features import FeatureSpec
from ..files.hub import hub_errors
from ..preprocessing import IDENTITY, Normalization
from .dilation import Change, Dilated, OutputStride, apply, dilate, dilated, is_had, not_had
from .encoder import Encoder
from .names import unknown
from .norm_eps import set_norm_eps
from .own_weights import build_with_weights, told
from .probe import parameter_count
from .query_blocks import QueryTokens
from .sizes import Size, SizeRule
from .swin_blocks import pad_first
from .timm_flexible import Build, check_bands, most_flexible
from .timm_meta import (
    backbone_features,
    bands,
    check_output_stride,
    chosen_indices,
    features_at,
    is_nhwc,
    meta_backbone,
)
from .timm_queries import check_joined, joined_options, joiner

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
    dilated: Dilated | None = None
    changes: tuple[Change, ...] = ()
    norm_eps: float | None = None
    pad_first: bool = False


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
        raise unknown(name)
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
    coarsest: int | None = None,
    output_stride: OutputStride | None = None,
    queries: QueryTokens | None = None,
) -> Encoder:
    """An :class:`Encoder` around ``timm.create_model(name, features_only=True)``."""
    import timm

    if queries is not None:
        options = joined_options(full_name(name), options or {}, queries)
    plan = plan_backbone(
        name,
        depth=depth,
        image_size=image_size,
        options=options,
        coarsest=coarsest,
        output_stride=output_stride,
    )
    if in_channels != plan.source.input_size[0]:
        _check_bands(plan.name, json.dumps(dict(plan.options)), plan.size_rule, in_channels)
    build_options = dict(plan.options)
    if queries is not None:
        build_options |= {"feature_cls": joiner(plan.name, queries)}
        check_joined(plan.name, json.dumps(dict(plan.options)), queries, plan.size_rule)
    if isinstance(pretrained, str):
        backbone = build_with_weights(plan.name, pretrained, in_channels, build_options)
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
                **build_options,
            )
    apply(plan.changes, backbone)
    set_norm_eps(backbone, plan.norm_eps)
    if plan.pad_first:
        pad_first(backbone)
    return Encoder(
        backbone,
        plan.features,
        name=plan.name,
        in_channels=in_channels,
        normalization=_normalization(plan.source),
        size_rule=plan.size_rule,
        channels_last=plan.channels_last,
        base_model=_base_model(plan, pretrained),
        dilated=plan.dilated,
    )


def _base_model(plan: BackbonePlan, pretrained: bool | str) -> str | None:
    """The Hub repository that the weights came from, or None."""
    if isinstance(pretrained, str):
        source = told(pretrained)
        return source.place if source.remote else None
    return f"timm/{plan.name}" if pretrained and plan.source.hf_hub_id else None


def plan_backbone(
    name: str,
    *,
    depth: int | None = None,
    image_size: Size | None = None,
    options: Mapping[str, Any] | None = None,
    coarsest: int | None = None,
    output_stride: OutputStride | None = None,
) -> BackbonePlan:
    """Find out about a backbone without allocating its weights; remembered for the process.

    Args:
        name: timm's name, with or without a tag.
        depth: How many maps, counted from the image; None for all that timm gives.
        image_size: ``(height, width)`` to build it for, where it is built for a size.
        options: What else goes to ``timm.create_model``.
        coarsest: Maps of a larger stride are left out, unless there are no others; None for all.
        output_stride: How far it may shrink the image; None for as far as it is made to.

    Raises:
        UnknownNameError: An unknown name or tag.
        ArgumentError: A depth, an option or an output stride that it cannot have.
        EncoderError: timm cannot build or run it.
    """
    others = dict(options or {})
    norm_eps, padded = others.pop("norm_eps", None), others.pop("pad_first", False)
    checks.flag("encoder_options['pad_first']", padded)
    given = json.dumps(others)
    plan = _plan(full_name(name), depth, image_size, given, coarsest, output_stride)
    # What timm is given it may change; what is remembered stays.
    options = copy.deepcopy(dict(plan.options))
    return replace(plan, options=options, norm_eps=norm_eps, pad_first=padded)


@functools.lru_cache(maxsize=4096)
def _plan(
    name: str,
    depth: int | None,
    image_size: Size | None,
    options: str,
    coarsest: int | None,
    asked: OutputStride | None,
) -> BackbonePlan:
    given = json.loads(options)
    for option in sorted(_RESERVED & given.keys()):
        raise ArgumentError(
            f"encoder_options cannot hold {option!r}: segzoo sets it itself, or it would name a "
            "file to read."
        )
    if "output_stride" in given:
        if asked is not None and asked.required:
            raise ArgumentError("Give output_stride or encoder_options['output_stride'], not both.")
        check_output_stride(name, given)
        asked = None
    others = {option: value for option, value in given.items() if option != "out_indices"}
    request = _Request(
        name, given, others, meta_backbone(name, others), depth, image_size, coarsest
    )
    if asked is None:
        return request.plan(given.get("output_stride"))
    found = request.first(asked)
    if found is None and asked.required:
        possible = [other.stride for other in asked.others() if request.first(other)]
        raise ArgumentError(not_had(asked, name, possible, request.strides(None)))
    return found or request.plan(None)


@dataclass(frozen=True)
class _Request:
    """What is asked of one of timm's backbones, but for its output stride."""

    name: str
    given: Mapping[str, Any]
    others: Mapping[str, Any]  # what is given, but for out_indices
    plain: Any  # the backbone with those, on the meta device
    depth: int | None
    image_size: Size | None
    coarsest: int | None

    def first(self, asked: OutputStride) -> BackbonePlan | None:
        """The first plan with an output stride that works, or None."""
        tries = (self._attempt(stride, method) for stride, method in asked.tries())
        return next((plan for plan in tries if plan is not None), None)

    def strides(self, output_stride: int | None) -> tuple[int, ...]:
        """Of the maps that would be taken, as the backbone is made."""
        indices = self._taps(output_stride).get("out_indices")
        return tuple(item.stride for item in features_at(self.plain, indices))

    def plan(self, output_stride: int | None) -> BackbonePlan:
        """The backbone as it is made, or as an ``output_stride`` in the options makes it."""
        meta, rule, options = self._flexible(output_stride, {}, changed=False)
        plan = self._planned(meta, rule, options, backbone_features(meta))
        if "output_stride" not in self.given:
            return plan
        others = {name: item for name, item in options.items() if name != "output_stride"}
        as_made = tuple(item.stride for item in backbone_features(meta_backbone(self.name, others)))
        return self._dilated(plan, as_made, self.given["output_stride"], "timm")

    def _attempt(self, stride: int, method: str) -> BackbonePlan | None:
        """A plan with that output stride, had by one method; None where it cannot be."""
        as_made = self.strides(stride)
        if method == "none":
            return self.plan(stride) if as_made[-1] <= stride else None
        if method == "convolutions" and stride not in as_made:
            return None  # no stage ends there; known before anything is built
        timms = {"output_stride": stride} if method == "timm" else {}
        try:
            meta, rule, options = self._flexible(stride, timms, changed=method == "convolutions")
        except (ArgumentError, EncoderError):
            return None  # timm raises either for a stride that a backbone cannot have
        features = features_at(self.plain, options.get("out_indices"))
        plan = self._planned(meta, rule, options, dilated(features, stride))
        if method == "timm":
            had = is_had(meta, plan.features, stride, bands(meta), rule, plan.channels_last)
            return self._dilated(plan, as_made, stride, method) if had else None
        changes = dilate(meta, features, stride, bands(meta), rule, plan.channels_last)
        if changes is None:
            return None
        return self._dilated(replace(plan, changes=changes), as_made, stride, method)

    def _dilated(
        self, plan: BackbonePlan, as_made: tuple[int, ...], stride: int, method: str
    ) -> BackbonePlan:
        same = as_made == tuple(item.stride for item in plan.features)
        return plan if same else replace(plan, dilated=Dilated(stride, method, as_made))

    def _taps(self, output_stride: int | None) -> dict[str, Any]:
        return chosen_indices(
            self.name,
            self.plain,
            self.depth,
            self.given,
            coarsest=self.coarsest,
            output_stride=output_stride,
        )

    def _flexible(
        self, output_stride: int | None, more: Mapping[str, Any], *, changed: bool
    ) -> Build:
        """The build that takes the most image sizes; a new one where it is to be changed."""
        chosen = {**self.given, **self._taps(output_stride), **more}
        plain = None if changed or chosen != self.others else self.plain
        native = _source(self.name).input_size[-2:]
        return most_flexible(self.name, chosen, native, self.image_size, plain=plain)

    def _planned(
        self,
        meta: Any,
        rule: SizeRule,
        options: Mapping[str, Any],
        features: tuple[FeatureSpec, ...],
    ) -> BackbonePlan:
        return BackbonePlan(
            name=self.name,
            options=options,
            features=features,
            size_rule=rule,
            channels_last=is_nhwc(meta),
            parameters=parameter_count(meta),
            source=_source(self.name),
        )


def _source(name: str) -> PretrainedCfg:
    import timm

    return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()


@functools.lru_cache(maxsize=4096)
def _check_bands(name: str, options: str, rule: SizeRule, in_channels: int) -> None:
    check_bands(name, json.loads(options), rule, _source(name).input_size[0], in_channels)


@functools.lru_cache(maxsize=4096)
def outline(name: str) -> tuple[tuple[FeatureSpec, ...], int]:
    """The maps and the number of weights, from a build; nothing is run to find out more.

    Raises:
        EncoderError: timm cannot build it.
    """
    plain = meta_backbone(name, {})
    chosen = chosen_indices(name, plain, None, {})
    meta = meta_backbone(name, chosen) if chosen else plain
    return backbone_features(meta), parameter_count(meta)


def _normalization(source: PretrainedCfg) -> Normalization:
    return Normalization(tuple(source.mean), tuple(source.std)) if source.mean else IDENTITY
