"""What smp's DeepLabV3 and DeepLabV3Plus have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ... import checks
from ...architectures.aspp import ASPP, MAX_RATE, SeparableConv
from ...errors import ArgumentError, ConversionError
from ..keymap import Rule
from .architecture import (
    SmpArchitecture,
    depth_of,
    dropout_of,
    output_stride_of,
    tensor_of,
    told,
    unit_rules,
)

#: smp's names of the arguments.
OPTIONS = (
    *("encoder_output_stride", "decoder_channels", "decoder_atrous_rates"),
    *("decoder_aspp_separable", "decoder_aspp_dropout", "upsampling"),
)
_DROPOUT = 0.5


def untold_by_tensors(stride: int) -> dict[str, Any]:
    """What tensors do not tell, with smp's defaults.

    Args:
        stride: smp's default ``encoder_output_stride``.
    """
    return {"encoder_output_stride": stride, "decoder_atrous_rates": (12, 24, 36)}


def aspp_arguments(
    tensors: Mapping[str, Tensor],
    given: dict[str, Any],
    converter: SmpArchitecture,
    aspp: str,
    where: str,
) -> dict[str, Any]:
    """Arguments of our architecture.

    Args:
        tensors: Tensors of the checkpoint.
        given: smp's config; what is used is taken out of it.
        converter: Converter of the architecture.
        aspp: smp's name of the pyramid pooling.
        where: The checkpoint, for messages.

    Raises:
        ConversionError: Something that cannot be brought over exactly.
    """
    point = tensor_of(tensors, f"{aspp}.convs.0.0.weight", converter, where)
    pattern = re.compile(rf"{re.escape(aspp)}\.convs\.(\d+)\..*")
    last = max(int(found[1]) for found in map(pattern.fullmatch, tensors) if found)
    separable = f"{aspp}.convs.1.0.0.weight" in tensors
    told(
        given,
        {"decoder_channels": point.shape[0], "decoder_aspp_separable": separable},
        where,
    )
    depth_of(given, converter.depth, 3, where)
    return {
        "output_stride": output_stride_of(given, converter, (8, 16), where),
        "decoder_channels": point.shape[0],
        "atrous_rates": _rates(given, converter, last - 1, where),
        "separable": separable,
        "aspp_dropout": dropout_of(given, "decoder_aspp_dropout", _DROPOUT, where),
    }


def check_rate(name: str, value: Any) -> int:
    """A rate that a branch here can have.

    Raises:
        ArgumentError: It is none.
    """
    return checks.integer(name, value, minimum=1, maximum=MAX_RATE)


def _rates(
    given: dict[str, Any], converter: SmpArchitecture, count: int, where: str
) -> tuple[int, ...]:
    """The rates of the dilated branches, which tensors do not tell but for their number."""
    value = given.pop("decoder_atrous_rates", converter.untold["decoder_atrous_rates"])
    try:
        rates = checks.sequence("decoder_atrous_rates", value, check_rate)
    except ArgumentError as error:
        raise ConversionError(f"{where}: {error}") from error
    if len(rates) != count:
        raise ConversionError(
            f"{where} has {count} dilated branches, but decoder_atrous_rates={rates}. Give the "
            "rates that it was built with in the config."
        )
    return rates


def aspp_rules(pattern: str, aspp: ASPP) -> tuple[Rule, ...]:
    """Rules for the pyramid pooling.

    Args:
        pattern: smp's name of it, a regular expression; smp numbers its branches through.
        aspp: Ours.
    """
    convs, name = rf"{pattern}\.convs", "decoder.aspp"
    rules = [*unit_rules(rf"{convs}\.0", f"{name}.point")]
    for i, branch in enumerate(aspp.atrous):
        theirs, ours = rf"{convs}\.{i + 1}", f"{name}.atrous.{i}"
        if isinstance(branch, SeparableConv):
            rules += separable_rules(rf"{theirs}\.0", rf"{theirs}\.1", ours)
        else:
            rules += unit_rules(theirs, ours)
    last = len(aspp.atrous) + 1
    return (
        *rules,
        (rf"^{convs}\.{last}\.1\.", f"{name}.pool.unit.conv."),
        (rf"^{convs}\.{last}\.2\.", f"{name}.pool.unit.norm."),
        *unit_rules(rf"{pattern}\.project", f"{name}.project"),
    )


def separable_rules(pattern: str, norm: str, name: str) -> tuple[Rule, ...]:
    """Rules for one of smp's separable convolutions and the norm behind it."""
    return (
        (rf"^{pattern}\.0\.", f"{name}.depthwise."),
        (rf"^{pattern}\.1\.", f"{name}.pointwise.conv."),
        (rf"^{norm}\.", f"{name}.pointwise.norm."),
    )
