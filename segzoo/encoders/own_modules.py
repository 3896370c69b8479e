"""Backbones that are not timm's: an encoder around a module that a person built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..errors import ArgumentError, EncoderError
from ..features import FeatureSpec
from ..nn.sharing import in_eval_mode
from ..preprocessing import IDENTITY, Normalization
from . import timm_meta
from .dilation import Dilated, OutputStride, dilate, dilated, not_had
from .encoder import Encoder
from .positions import PositionsHaveValues
from .probe import accepts, difference, on_meta
from .sizes import ANY_SIZE, Size, SizeRule, find_size_rule


def own_dilated(encoder: Encoder, asked: OutputStride | None) -> Encoder:
    """An encoder that was just built by the user's function, with the output stride asked for."""

    def had(wanted: OutputStride, backbone: nn.Module) -> Dilated | None:
        for stride, dilation in wanted.tries():
            if dilation == "convolutions" and dilate(
                backbone,
                encoder.features,
                stride,
                encoder.in_channels,
                encoder.size_rule,
                encoder.channels_last,
            ):
                return Dilated(stride, dilation, encoder.strides)
        return None

    if asked is None or encoder.stride <= asked.stride:
        return encoder
    training = encoder.training
    found = had(asked, encoder.eval().backbone)
    encoder.train(training)
    if found is not None:
        encoder.features = dilated(encoder.features, found.output_stride)
        encoder.dilated = found
    elif asked.required:
        possible = [
            other.stride
            for other in asked.others()
            if encoder.stride <= other.stride or had(other, deepcopy(encoder.backbone))
        ]
        raise ArgumentError(not_had(asked, encoder.name, possible, encoder.strides))
    return encoder


def adapt(backbone: nn.Module, name: str, in_channels: int, depth: int | None) -> Encoder:
    """An encoder around a module that the user built."""
    if isinstance(backbone, Encoder):
        return backbone
    if depth is not None:
        raise ArgumentError("depth is for encoders given by name; give your own the maps you want.")
    source: Mapping[str, Any] = {}
    channels_last = False
    features = getattr(backbone, "features", None)
    if hasattr(getattr(backbone, "feature_info", None), "channels"):
        # Made by timm.create_model(..., features_only=True).
        features = timm_meta.backbone_features(backbone)
        channels_last = timm_meta.is_nhwc(backbone)
        source = getattr(backbone, "pretrained_cfg", {})
    if not isinstance(features, (tuple, list)) or not all(
        isinstance(feature, FeatureSpec) for feature in features
    ):
        raise ArgumentError(
            f"The backbone {name!r} needs an attribute `features`, a tuple of segzoo.FeatureSpec, "
            f"one for each map that it gives, finest first; got {checks.shown(features)}. One from "
            "timm needs features_only=True."
        )
    normalization = getattr(backbone, "normalization", None)
    if source.get("mean"):
        normalization = Normalization(tuple(source["mean"]), tuple(source["std"]))
    return Encoder(
        backbone,
        features,
        name=name,
        in_channels=in_channels,
        normalization=normalization if isinstance(normalization, Normalization) else IDENTITY,
        size_rule=_probe_sizes(backbone, name, features, in_channels, channels_last, source),
        channels_last=channels_last,
    )


def _probe_sizes(
    backbone: nn.Module,
    name: str,
    features: Sequence[FeatureSpec],
    bands: int,
    channels_last: bool,
    source: Mapping[str, Any],
) -> SizeRule:
    """What sizes a module takes; any, where it cannot be run on the meta device to find out.

    Raises:
        ArgumentError: It can be run, and gives other maps than it declares, or takes other bands.
    """
    native = tuple(source.get("input_size", (3, 224, 224))[-2:])
    with in_eval_mode(backbone) as evaluating:
        run, _ = on_meta(evaluating)

        def fits(size: Size, *, bands: int = bands) -> bool:
            image = torch.empty(1, bands, *size, device="meta")
            return accepts(run, features, image, channels_last=channels_last)

        try:
            return find_size_rule(fits, native)
        except EncoderError:
            first = next((part for part in backbone.modules() if isinstance(part, nn.Conv2d)), None)
            if first and first.in_channels != bands and fits(native, bands=first.in_channels):
                raise ArgumentError(
                    f"The backbone {name!r} was built for in_channels={first.in_channels}, and "
                    f"in_channels={bands} is asked for. Give in_channels={first.in_channels}, or a "
                    f"backbone that takes {bands}."
                ) from None
            image = torch.empty(1, bands, *native, device="meta")
            _check_maps(run, name, features, image, channels_last)
            return ANY_SIZE


def _check_maps(
    run: Callable[[Tensor], Sequence[Tensor]],
    name: str,
    features: Sequence[FeatureSpec],
    image: Tensor,
    channels_last: bool,
) -> None:
    try:
        with torch.no_grad(), PositionsHaveValues():
            maps = run(image)
    except Exception:  # a forward that reads pixels, which the meta device has none of
        return
    reason = difference(maps, features, channels_last=channels_last, more=True)
    if reason is not None:
        raise ArgumentError(
            f"The backbone {name!r} {reason}. Its forward must give a list of maps (N, C, H, W), "
            "one for each segzoo.FeatureSpec of its attribute `features`, finest first."
        )
