"""The build of a timm backbone that takes the most image sizes: found by trying its options."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError, EncoderError
from .probe import accepts
from .sizes import Size, SizeRule, find_size_rule, sizes_to_build_for
from .timm_meta import backbone_features, bands, is_nhwc, meta_backbone

#: Ways to make a backbone take other sizes than the one it was designed for; each is tried.
_FLEXIBLE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"strict_img_size": False, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
)
#: A backbone on the meta device, the sizes it takes, and the options it was built with.
Build = tuple[nn.Module, SizeRule, Mapping[str, Any]]


def most_flexible(
    name: str,
    options: Mapping[str, Any],
    native: Size,
    image_size: Size | None,
    *,
    plain: nn.Module | None = None,
) -> Build:
    """The build of the backbone that takes the most image sizes, for ``image_size`` where given.

    Args:
        name: timm's name.
        options: For ``timm.create_model``.
        native: The ``(height, width)`` that it was made for.
        image_size: The ``(height, width)`` to build it for, where it is built for a size.
        plain: The backbone with exactly ``options`` on the meta device, where it is there already.
    """
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
    builds = builds or _builds(name, options, native, plain)
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


def _builds(
    name: str, options: Mapping[str, Any], native: Size, plain: nn.Module | None = None
) -> list[Build]:
    """The plain build, and the flexible ones that the backbone knows, until one takes any size.

    Those that cannot be run are left out.
    """
    found: list[Build] = []
    for extra in ({}, *_FLEXIBLE):
        if extra.keys() & options.keys():
            continue  # what the user sets is not changed
        build = {**options, **extra}
        try:
            meta = plain if plain is not None and not extra else meta_backbone(name, build)
            rule = _size_rule(meta, native)
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


def check_bands(
    name: str, options: Mapping[str, Any], rule: SizeRule, native: int, in_channels: int
) -> None:
    """Whether a backbone still runs when it is built for another number of bands.

    A stem with a fixed meaning of its bands (a conversion from RGB, say) builds, and then fails at
    the first image. A backbone that cannot be run on the meta device gets the benefit of the doubt.

    Raises:
        ArgumentError: It runs with its native number of bands only.
    """

    def failure(count: int) -> Exception | None:
        image = rule.fit(torch.empty(1, count, 64, 64, device="meta"))
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # the error here says more
                meta_backbone(name, {**options, "in_chans": count})(image)
        except Exception as error:  # a backbone may fail in any way
            return error
        return None

    found = failure(in_channels)
    if found is not None and failure(native) is None:
        raise ArgumentError(
            f"{name!r} cannot be built for in_channels={in_channels}, only for {native}: its "
            f"first layers do not take other bands ({found}). Choose another encoder."
        ) from found


def _real_build(name: str, options: Mapping[str, Any], native: Size) -> Build:
    """For a backbone whose forward reads values, which the meta device has none of.

    Raises:
        EncoderError: It fails with values too.
    """
    import timm

    try:
        # The caller may be building on the meta device.
        with torch.no_grad(), torch.device("cpu"):
            real: nn.Module = timm.create_model(name, features_only=True, **options).eval()
            real(torch.zeros(1, bands(real), *native))
    except Exception as error:  # a backbone may fail in any way
        raise EncoderError(
            f"{name!r} gives no feature maps for an image of its own size, "
            f"{native[0]}x{native[1]}: {error}"
        ) from error
    return meta_backbone(name, options), _size_rule(real, native), options


def _size_rule(backbone: nn.Module, native: Size) -> SizeRule:
    """The size rule of a timm backbone in eval mode, on the device that it is on."""
    features, nhwc = backbone_features(backbone), is_nhwc(backbone)
    device = next(backbone.parameters()).device
    # With real values a large image costs real time and memory.
    largest = math.inf if device.type == "meta" else 512

    def fits(size: Size) -> bool:
        if max(size) > max(largest, *native):
            return False
        image = torch.empty(1, bands(backbone), *size, device=device)
        return accepts(backbone, features, image, channels_last=nhwc)

    return find_size_rule(fits, native)
