"""Encoders by name, timm's and the user's own, and what is known of each without building it."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from .. import checks
from ..config import DILATIONS, MAX_BANDS, MAX_SIDE, OUTPUT_STRIDES
from ..errors import ArgumentError, DuplicateNameError
from ..preprocessing import Normalization
from . import timm_source
from .dilation import OutputStride
from .encoder import Encoder
from .names import ENCODERS, unknown
from .own_modules import adapt, own_dilated
from .positions import PositionsHaveValues
from .probe import build_on_meta, parameter_count
from .query_blocks import QueryTokens, WithQueries
from .sizes import Size, SizeRule
from .timm_queries import check_asked

#: What every registered callable takes.
_OURS = ("in_channels", "pretrained")

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

_log = logging.getLogger(__name__)


def register_encoder(name: str) -> Callable[[Factory], Factory]:
    """Give a backbone of your own a name, so that models with it can be built, saved and loaded.

    The decorated callable takes ``in_channels`` and ``pretrained``, and whatever is given as
    ``encoder_options``; one that has a parameter ``depth`` gets the number of maps that are wanted,
    or None for all. It returns a module that maps an image to a list of feature maps, finest
    first, and has an attribute ``features``, a sequence of :class:`~segzoo.FeatureSpec`.

    >>> @segzoo.register_encoder("two_convs")
    ... class TwoConvs(torch.nn.Module):
    ...     features = (segzoo.FeatureSpec(8, 2), segzoo.FeatureSpec(16, 4))
    ...
    ...     def __init__(self, in_channels: int = 3, pretrained: bool = False):
    ...         super().__init__()
    ...         self.fine = torch.nn.Conv2d(in_channels, 8, 3, stride=2, padding=1)
    ...         self.coarse = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1)
    ...
    ...     def forward(self, image):
    ...         fine = self.fine(image)
    ...         return [fine, self.coarse(fine)]
    >>> segzoo.Unet("two_convs", classes=2)(torch.rand(1, 3, 50, 37)).shape
    torch.Size([1, 2, 50, 37])

    Raises:
        ArgumentError: The name is no text.
        DuplicateNameError: The name is taken, by an encoder registered before or by timm.
    """
    checks.text("name", name)
    if timm_source.is_timm_name(name):
        raise DuplicateNameError(f"timm has an architecture {name!r} already. Choose another name.")

    def register(factory: Factory) -> Factory:
        ENCODERS.add(name, factory)
        return factory

    return register


def is_known(name: str) -> bool:
    """Whether an encoder can be built by that name."""
    return name in ENCODERS or timm_source.is_timm_name(name)


@dataclass(frozen=True)
class EncoderInfo:
    """What is known of an encoder without downloading or allocating anything.

    Attributes:
        name: The full name, with the tag of the weights.
        channels: Channels of each map, finest first.
        strides: Stride of each map, finest first.
        parameters: Number of weights of the encoder.
        gflops: 10^9 floating point operations (a multiply-add counts as two) for one image of
            224x224, or of the size nearest to it that the encoder takes; None for the few
            encoders that cannot be run without values.
        gflops_size: That size, ``(height, width)``.
        pretrained_tags: Tags of pretrained weights, timm's default first.
        license: Licence of the weights that ``name`` stands for, as timm states it; None where it
            states none, or has no weights.
        normalization: Mean and standard deviation that those weights expect.
        size_rule: Which image sizes the encoder takes, and what happens to others.
    """

    name: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    parameters: int
    gflops: float | None
    gflops_size: Size
    pretrained_tags: tuple[str, ...]
    license: str | None
    normalization: Normalization
    size_rule: SizeRule


def encoder_info(name: str) -> EncoderInfo:
    """Describe an encoder, without a download and without allocating its weights.

    >>> info = segzoo.encoder_info("resnet34")
    >>> info.channels, info.strides
    ((64, 64, 128, 256, 512), (2, 4, 8, 16, 32))

    Raises:
        UnknownNameError: No encoder has that name; the nearest ones are suggested.
    """
    checks.text("name", name)
    if name in ENCODERS:
        encoder = build_on_meta(lambda: create_encoder(name)).eval()
        tags: tuple[str, ...] = ()
        license: str | None = None
    else:
        plan = timm_source.plan_backbone(name)
        encoder = build_on_meta(lambda: timm_source.build(name)).eval()
        tags = timm_source.pretrained_tags(plan.name.partition(".")[0])
        license = plan.source.license if tags else None
    gflops, size = _gflops(encoder)
    return EncoderInfo(
        name=encoder.name,
        channels=encoder.channels,
        strides=encoder.strides,
        parameters=parameter_count(encoder),
        gflops=gflops,
        gflops_size=size,
        pretrained_tags=tags,
        license=license,
        normalization=encoder.normalization,
        size_rule=encoder.size_rule,
    )


def _gflops(encoder: Encoder) -> tuple[float | None, Size]:
    """Counted on the meta device, where the operations are dispatched but not computed."""
    from torch.utils.flop_counter import FlopCounterMode  # brings in Triton, which takes a while

    image = encoder.size_rule.fit(torch.empty(1, encoder.in_channels, 224, 224, device="meta"))
    encoder.requires_grad_(False)  # the counter's module hooks trip over parameters used as inputs
    size = (image.shape[-2], image.shape[-1])
    try:
        with PositionsHaveValues(), FlopCounterMode(display=False) as counter:
            encoder(image)
    except Exception:  # a forward that reads pixels, which the meta device has none of
        return None, size
    return counter.get_total_flops() / 1e9, size


def create_encoder(
    encoder: str | nn.Module,
    *,
    in_channels: int = 3,
    pretrained: bool | str | os.PathLike[str] = False,
    depth: int | None = None,
    image_size: Size | None = None,
    options: Mapping[str, Any] | None = None,
    output_stride: int | None = None,
    preferred_stride: int | None = None,
    dilation: str | None = None,
    coarsest: int | None = None,
    queries: QueryTokens | None = None,
) -> Encoder:
    """An encoder by name, or around a backbone that you built.

    Args:
        encoder: A name of :func:`list_encoders`, with a tag if you like
            (``"resnet34.a1_in1k"``); or a module that takes an image and gives a list of maps,
            with an attribute ``features`` (a sequence of :class:`~segzoo.FeatureSpec`); or what
            ``timm.create_model(..., features_only=True)`` gave you; or an :class:`Encoder`.
        in_channels: Bands of the image, 1 or more.
        pretrained: Load timm's weights of that name, adapted to the number of bands as timm does;
            or the path of a checkpoint, or ``"hf-hub:user/name"``.
        depth: How many maps to take, counted from the image; None for all.
        image_size: ``(height, width)`` to build the backbone for, where it is built for a size.
        options: Passed on to ``timm.create_model``, or to the registered callable; plain values,
            as a saved model needs them.
        output_stride: 8, 16 or 32: how far it may shrink the image; stages that would go further
            are dilated. None for as far as it is made to.
        preferred_stride: The same as a wish, where ``output_stride`` is None: with an encoder that
            cannot have it the next larger one that it can, and a line in the log.
        dilation: How stages are dilated: ``timm`` by timm's own option, ``convolutions`` by giving
            every convolution of a late stage stride 1 and the stage's rate, ``none`` not at all;
            None for the first of the two that works.
        coarsest: Of one of timm's encoders maps of a larger stride are left out, unless there are
            no others, with all that only they need; None for all.
        queries: Tokens that join the last blocks of one of timm's plain transformers; see
            :class:`~segzoo.EoMT`.

    Raises:
        UnknownNameError: No encoder has that name, or no weights have that tag.
        ArgumentError: An argument that this encoder cannot have.
        EncoderError: The backbone cannot be built or run.
    """
    asked = _asked(output_stride, preferred_stride, dilation)
    if isinstance(pretrained, os.PathLike):
        pretrained = os.fspath(pretrained)
    if not isinstance(pretrained, str):
        checks.flag("pretrained", pretrained)
    _check_numbers(in_channels=in_channels, depth=depth, coarsest=coarsest)
    if image_size is not None:
        image_size = _size(image_size)
    if not isinstance(options, (Mapping, type(None))):
        raise ArgumentError(f"options must be a mapping, got {checks.shown(options)}.")
    options = checks.plain_value("options", options)
    if queries is not None:
        own = not isinstance(encoder, str) or encoder in ENCODERS
        check_asked(own, depth, asked, options)
    made = _create(
        encoder, in_channels, pretrained, depth, image_size, options, asked, coarsest, queries
    )
    if isinstance(encoder, str):
        made.began_pretrained = made.began_pretrained or bool(pretrained)
        given = dict(options or {})
        made.built_with = {"depth": depth, "image_size": image_size, "encoder_options": given}
        made.takes_depth = encoder not in ENCODERS or "depth" in _options_of(encoder)
        if coarsest is not None and encoder not in ENCODERS:
            made.built_with |= _maps_there(made, given)
    if asked is not None and asked.stride < made.stride and dilation != "none":
        _log.warning(
            "%r cannot have an output stride of %d, for which the model is made; it ends at "
            "stride %d.",
            made.name,
            asked.stride,
            made.stride,
        )
    return made


def _check_numbers(*, in_channels: int, depth: int | None, coarsest: int | None) -> None:
    checks.integer("in_channels", in_channels, minimum=1, maximum=MAX_BANDS)
    for name, value in (("depth", depth), ("coarsest", coarsest)):
        if value is not None:
            checks.integer(name, value, minimum=1, maximum=1024)


def _size(size: Size) -> Size:
    def side(name: str, value: int) -> int:
        return checks.integer(name, value, minimum=1, maximum=MAX_SIDE)

    sides = checks.sequence("image_size", size, side)
    if len(sides) != 2:
        raise ArgumentError(f"image_size must be (height, width), got {checks.shown(size)}.")
    return sides[0], sides[1]


def _asked(stride: int | None, preferred: int | None, dilation: str | None) -> OutputStride | None:
    """The output stride that is asked for, from arguments that are checked here."""
    for name, value in (("output_stride", stride), ("preferred_stride", preferred)):
        if value is not None and (type(value) is not int or value not in OUTPUT_STRIDES):
            raise ArgumentError(
                f"{name} must be one of {', '.join(map(str, OUTPUT_STRIDES))}, got "
                f"{checks.shown(value)}."
            )
    if dilation is not None:
        checks.choice("dilation", dilation, DILATIONS)
    if stride is None and preferred is None:
        if dilation not in (None, "none"):
            raise ArgumentError(
                f"dilation={dilation!r} says how an output stride is had: give output_stride too."
            )
        return None
    wanted = preferred if stride is None else stride
    assert wanted is not None
    return OutputStride(wanted, dilation, required=stride is not None)


def _create(
    encoder: str | nn.Module,
    in_channels: int,
    pretrained: bool | str,
    depth: int | None,
    image_size: Size | None,
    options: Mapping[str, Any] | None,
    asked: OutputStride | None,
    coarsest: int | None,
    queries: QueryTokens | None,
) -> Encoder:
    """What :func:`create_encoder` makes, from arguments that are checked."""
    if isinstance(encoder, str) and encoder not in ENCODERS:
        if not timm_source.is_timm_name(encoder):
            raise unknown(encoder)
        return timm_source.build(
            encoder,
            in_channels=in_channels,
            pretrained=pretrained,
            depth=depth,
            image_size=image_size,
            options=options,
            coarsest=coarsest,
            output_stride=asked,
            queries=queries,
        )
    if image_size is not None and not isinstance(encoder, Encoder):
        raise ArgumentError(
            f"image_size={image_size} is for backbones of timm that are built for a size. One of "
            "yours is made for its own: build it for this one, in a registered function by an "
            "option of its own (encoder_options)."
        )
    if isinstance(encoder, str):
        more = _registered_options(encoder, options or {}, depth)
        given = {"in_channels": in_channels, "pretrained": pretrained, **more}
        try:
            inspect.signature(ENCODERS[encoder]).bind(**given)
        except TypeError as error:  # an argument of its own is missing, or one of these two
            raise ArgumentError(
                f"The encoder {encoder!r} cannot be called with {', '.join(given)}: {error}."
            ) from error
        backbone = ENCODERS[encoder](**given)
        left = None if "depth" in more else depth
        return own_dilated(adapt(backbone, encoder, in_channels, left), asked)
    if pretrained or options:
        raise ArgumentError(
            "pretrained and encoder_options are for an encoder given by name; yours is built "
            "already."
        )
    if isinstance(encoder, Encoder) and isinstance(encoder.backbone, WithQueries):
        raise ArgumentError(
            f"This encoder {encoder.name!r} belongs to an EoMT: in its last blocks it has queries, "
            "which no other model reads. Give the encoder's name, or build one with "
            "segzoo.create_encoder."
        )
    if isinstance(encoder, Encoder) and (depth is not None or image_size is not None):
        raise ArgumentError(
            "depth and image_size are for an encoder given by name; yours is built already: give "
            "them to segzoo.create_encoder."
        )
    if isinstance(encoder, Encoder) and in_channels != encoder.in_channels:
        raise ArgumentError(
            f"in_channels={in_channels}, but the encoder was built for {encoder.in_channels}."
        )
    if not isinstance(encoder, Encoder):
        encoder = adapt(encoder, type(encoder).__name__, in_channels, depth)
    if asked is not None and asked.required and asked.stride < encoder.stride:
        raise ArgumentError(
            f"output_stride={asked.stride}, but your encoder {encoder.name!r} ends at stride "
            f"{encoder.stride}, and a module of yours is not changed. Dilate it yourself and let "
            "its features say so, or register a function that builds it "
            "(segzoo.register_encoder) and give its name."
        )
    return encoder


def _maps_there(made: Encoder, options: Mapping[str, Any]) -> dict[str, Any]:
    """How a config says which maps one of timm's encoders has, whatever was left out."""
    if "out_indices" not in options:
        return {"depth": len(made.features)}
    info: Any = made.backbone.feature_info
    return {"encoder_options": {**options, "out_indices": tuple(info.out_indices)}}


def _options_of(name: str) -> list[str]:
    """The options that a registered callable names, beside what each of them takes."""
    return [
        item.name
        for item in inspect.signature(ENCODERS[name]).parameters.values()
        if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY) and item.name not in _OURS
    ]


def _registered_options(name: str, options: Mapping[str, Any], depth: int | None) -> dict[str, Any]:
    """What a registered callable is given beside the bands and whether it is pretrained.

    Raises:
        ArgumentError: It takes no such option, or is told the same twice.
    """
    known, parameters = _options_of(name), inspect.signature(ENCODERS[name]).parameters.values()
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters)
    if not takes_any or any(option in options for option in _OURS):
        checks.keywords(f"encoder_options of {name!r}", options, known)
    if depth is not None and "depth" in options:
        raise ArgumentError("Give depth or encoder_options['depth'], not both.")
    # It can leave out what only deeper maps need.
    told = {"depth": depth} if depth is not None and "depth" in known else {}
    return {**options, **told}
