"""The build of a timm backbone that takes the most image sizes: found by trying its options."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError, EncoderError
from .positions import PositionsHaveValues
from .probe import accepts
from .sizes import Size, SizeRule, find_size_rule, sizes_to_build_for
from .timm_meta import backbone_features, bands, is_nhwc, meta_backbone, size_hint

#: Options that make a backbone take other sizes than the one it was designed for; each is tried.
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
    # What takes no image at all when it is built for one size does, built for others, take these
    # alone or nothing; so the whole search is made once, however many sizes there are.
    hopeless = False
    for size in sizes_to_build_for(image_size) if image_size else ():
        try:
            found = _builds(name, {**options, "img_size": size}, size, own_size_first=hopeless)
        except _TakesNothingError:
            hopeless = True
            continue
        except EncoderError:
            continue  # nor a larger one that can be built
        except ArgumentError:
            break  # it is not built for a size
        builds = [
            (meta, _native(meta, rule, size, image_size), final) for meta, rule, final in found
        ]
        break
    builds = builds or _builds(name, options, native, plain)
    return min(builds, key=lambda build: (build[1].fixed is not None, build[1].multiple))


def _native(backbone: nn.Module, rule: SizeRule, built_for: Size, wanted: Size | None) -> SizeRule:
    """The rule of a build for a size, under which images of that size are not blown up."""
    stride = backbone_features(backbone)[-1].stride
    wasteful = rule.multiple > stride and any(side % rule.multiple for side in built_for)
    return SizeRule(fixed=built_for, padded=wanted) if rule.fixed or wasteful else rule


class _TakesNothingError(EncoderError):
    """It can be built, but no build takes an image."""


def _builds(
    name: str,
    options: Mapping[str, Any],
    native: Size,
    plain: nn.Module | None = None,
    *,
    own_size_first: bool = False,
) -> list[Build]:
    """The plain build, and the flexible ones that the backbone knows, until one takes any size.

    Those that cannot be run are left out.

    Args:
        name: timm's name.
        options: For ``timm.create_model``.
        native: The ``(height, width)`` that it is made for.
        plain: The backbone with exactly ``options`` on the meta device, where it is there already.
        own_size_first: Look no further where a build does not take ``native``.

    Raises:
        ArgumentError: An option in ``options`` that the backbone does not have.
        EncoderError: None of them can be run.
    """
    found: list[Build] = []
    reason: EncoderError | None = None
    built = False
    for extra in ({}, *_FLEXIBLE):
        if extra.keys() & options.keys():
            continue  # what the user sets is not changed
        build = {**options, **extra}
        try:
            meta = plain if plain is not None and not extra else meta_backbone(name, build)
            built = True
            rule = _size_rule(meta, native, own_size_first)
        except ArgumentError:
            if not extra:
                raise
            continue
        except EncoderError as error:
            reason = reason or error
            continue
        found.append((meta, rule, build))
        if rule.multiple == 1 and not rule.fixed:
            break
    if not found and reason is not None:
        raise (_TakesNothingError if built else EncoderError)(
            f"{name!r} cannot be run with {dict(options)}. {reason}{size_hint(options)}"
        ) from reason
    return found


def check_bands(
    name: str, options: Mapping[str, Any], rule: SizeRule, native: int, in_channels: int
) -> None:
    """Whether a backbone still runs when it is built for another number of bands.

    A stem with a fixed meaning of its bands (a conversion from RGB, say) builds, and then fails at
    the first image. One that runs with no number of bands gets the benefit of the doubt.

    Raises:
        ArgumentError: It runs with its native number of bands only.
    """

    def failure(count: int) -> Exception | None:
        image = rule.fit(torch.empty(1, count, 64, 64, device="meta"))
        try:
            with warnings.catch_warnings(), torch.no_grad(), PositionsHaveValues():
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


def _size_rule(meta: nn.Module, native: Size, own_size_first: bool) -> SizeRule:
    """The size rule of a timm backbone in eval mode on the meta device.

    Raises:
        EncoderError: It does not take ``native``; others are not tried with ``own_size_first``.
    """
    features, nhwc = backbone_features(meta), is_nhwc(meta)

    def fits(size: Size) -> bool:
        image = torch.empty(1, bands(meta), *size, device="meta")
        return accepts(meta, features, image, channels_last=nhwc)

    if own_size_first and not fits(native):
        return find_size_rule(lambda size: False, native)  # its error
    return find_size_rule(fits, native)
