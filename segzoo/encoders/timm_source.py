"""timm's backbones: everything that a decoder must know is asked of the backbone itself.

Each backbone is first built on the meta device, where it has shapes but no values, which takes a
few hundredths of a second; its maps, its size rule and the options that make it take more sizes
are found there by trying. timm is imported when the first backbone is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import ArgumentError, EncoderError, UnknownNameError, nearest
from ..features import FeatureSpec
from ..hub import hub_errors
from ..preprocessing import IDENTITY, Normalization
from .encoder import Encoder
from .own_weights import HUB_PREFIX, build_with_weights
from .probe import accepts, build_on_meta
from .sizes import Size, SizeRule, find_size_rule, sizes_to_build_for

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
#: Ways to make a backbone take other sizes than the one it was designed for; each is tried.
_FLEXIBLE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"strict_img_size": False, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
)
#: How many blocks of a flat backbone are taken when not told: four, as in DPT (Ranftl et al.,
#: "Vision Transformers for Dense Prediction", 2021, section 3.1).
_FLAT_MAPS = 4


#: A backbone on the meta device, the sizes it takes, and the options it was built with.
Build = tuple[nn.Module, SizeRule, Mapping[str, Any]]


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
    return _plan(full_name(name), depth, image_size, json.dumps(dict(options or {})))


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
        _check_output_stride(name, given)
    source = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    chosen = given | _taps(name, depth, given)
    meta, rule, final = _most_flexible(name, chosen, source.input_size[-2:], image_size)
    return BackbonePlan(
        name=name,
        options=final,
        features=backbone_features(meta),
        size_rule=rule,
        channels_last=is_nhwc(meta),
        parameters=sum(parameter.numel() for parameter in meta.parameters()),
        source=source,
    )


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
        known = ", ".join(known_options(name))
        raise ArgumentError(
            f"timm cannot build {name!r} with the options {dict(options)}: {error}. It knows: "
            f"{known or 'no options of its own'}."
        ) from error
    except Exception as error:
        raise EncoderError(
            f"timm cannot build {name!r} with the options {dict(options)}: {error}"
        ) from error
    return backbone.eval()


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


def _check_output_stride(name: str, given: Mapping[str, Any]) -> None:
    """Whether the deepest map really has the stride that is asked for: declared and measured."""

    def gives(stride: int) -> bool:
        try:
            backbone = meta_backbone(name, {**given, "output_stride": stride})
            deepest = backbone(torch.empty(1, _bands(backbone), 256, 256, device="meta"))[-1]
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


def _taps(name: str, depth: int | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """``out_indices`` for timm, ascending, or nothing where its own choice is the right one."""
    info: Any = meta_backbone(name, {}).feature_info
    total = len(info)
    if "out_indices" in given:
        if depth is not None:
            raise ArgumentError("Give depth or encoder_options['out_indices'], not both.")
        return {"out_indices": _sorted_indices(name, given["out_indices"], total)}
    default = _sorted_indices(name, info.out_indices, total)
    flat = total > 1 and len(set(info.get("reduction", list(range(total))))) == 1
    available = total if flat else len(default)
    if depth is not None and not 1 <= depth <= available:
        raise ArgumentError(
            f"depth must be between 1 and {available} for {name!r} (it gives {available} maps), "
            f"got {depth}."
        )
    if flat:
        # Evenly spread over all blocks, the last one included: 2, 5, 8, 11 of twelve.
        count = depth or min(_FLAT_MAPS, total)
        taps = tuple(total * (i + 1) // count - 1 for i in range(count))
    else:
        taps = default[:depth]
    return {} if taps == tuple(info.out_indices) else {"out_indices": taps}


def _sorted_indices(name: str, indices: Any, total: int) -> tuple[int, ...]:
    """Ascending, each once: timm's maps come in that order whatever order is asked for."""
    wanted = range(total - indices, total) if isinstance(indices, int) else indices
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


def _most_flexible(
    name: str, options: Mapping[str, Any], native: Size, image_size: Size | None
) -> Build:
    """The build of the backbone that takes the most image sizes, for ``image_size`` where given."""
    builds: list[Build] = []
    for size in sizes_to_build_for(image_size) if image_size else ():
        try:
            found = _builds(name, {**options, "img_size": size}, size)
        except ArgumentError:
            break  # it is not built for a size
        builds = [
            (meta, _native(meta, rule, size, image_size), final) for meta, rule, final in found
        ]
        if builds:
            break
    builds = builds or _builds(name, options, native)
    if not builds and "img_size" in options:
        # Never with values: the size may be a stranger's, and take any amount of memory.
        raise EncoderError(f"{name!r} does not run when it is built for {options['img_size']}.")
    builds = builds or [_real_build(name, options, native)]
    return min(builds, key=lambda build: (build[1].fixed is not None, build[1].multiple))


def _native(backbone: nn.Module, rule: SizeRule, built_for: Size, wanted: Size | None) -> SizeRule:
    """The rule of a build for a size, under which images of that size are not blown up."""
    stride = backbone_features(backbone)[-1].stride
    wasteful = rule.multiple > stride and any(side % rule.multiple for side in built_for)
    return SizeRule(fixed=built_for, padded=wanted) if rule.fixed or wasteful else rule


def _builds(name: str, options: Mapping[str, Any], native: Size) -> list[Build]:
    """The plain build, and the flexible ones that the backbone knows, until one takes any size.

    Those that cannot be run are left out.
    """
    found: list[Build] = []
    for extra in ({}, *_FLEXIBLE):
        if extra.keys() & options.keys():
            continue  # what the user sets is not changed
        build = {**options, **extra}
        try:
            meta = meta_backbone(name, build)
            rule = size_rule(meta, native)
        except ArgumentError:
            if not extra:
                raise
            continue
        except EncoderError:
            continue
        found.append((meta, rule, build))
        if rule.multiple == 1 and not rule.fixed:
            break
    return found


def _real_build(name: str, options: Mapping[str, Any], native: Size) -> Build:
    """For a backbone whose forward reads values, which the meta device has none of.

    Raises:
        EncoderError: It fails with values too.
    """
    import timm

    real: nn.Module = timm.create_model(name, features_only=True, **options).eval()
    bands = _bands(real)
    try:
        with torch.no_grad():
            real(torch.zeros(1, bands, *native))
    except Exception as error:  # a backbone may fail in any way
        raise EncoderError(
            f"{name!r} gives no feature maps for an image of its own size, "
            f"{native[0]}x{native[1]}: {error}"
        ) from error
    return meta_backbone(name, options), size_rule(real, native), options


def size_rule(backbone: nn.Module, native: Size) -> SizeRule:
    """The size rule of a timm backbone in eval mode, on the device that it is on."""
    features, nhwc, bands = backbone_features(backbone), is_nhwc(backbone), _bands(backbone)
    device = next(backbone.parameters()).device
    # With real values a large image costs real time and memory.
    largest = math.inf if device.type == "meta" else 512

    def fits(size: Size) -> bool:
        if max(size) > max(largest, *native):
            return False
        image = torch.empty(1, bands, *size, device=device)
        return accepts(backbone, features, image, channels_last=nhwc)

    return find_size_rule(fits, native)


def _bands(backbone: nn.Module) -> int:
    source: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
    return int(source.get("input_size", (3,))[0])


def backbone_features(backbone: Any) -> tuple[FeatureSpec, ...]:
    """What a backbone made by timm says of its maps."""
    info = backbone.feature_info
    return tuple(map(FeatureSpec, info.channels(), info.reduction()))


def is_nhwc(backbone: nn.Module) -> bool:
    """Whether a backbone made by timm gives maps ``(N, H, W, C)``."""
    return getattr(backbone, "output_fmt", "NCHW") == "NHWC"


def _normalization(source: PretrainedCfg) -> Normalization:
    return Normalization(tuple(source.mean), tuple(source.std)) if source.mean else IDENTITY
