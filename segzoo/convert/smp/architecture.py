"""What is said of each architecture of smp: one file each, named as ours is in ``architectures/``.

A file defines ``CONVERTER``, an :class:`SmpArchitecture`. Nothing else has to know of it:
converting and ``segzoo bench`` look for the file.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from ... import checks
from ...errors import ArgumentError, ConversionError
from ...nn.layers import INTERPOLATIONS
from ...registry import ARCHITECTURES
from ..keymap import Rule
from .encoders import EncoderPlan, plan_encoder

#: smp's names for its normalisation layers -> ours. Its layernorm crashes on every image.
_NORMS = {"batchnorm": "batch", "instancenorm": "instance", "identity": "none"}


class SmpArchitecture(ABC):
    """How a model of one of smp's architectures becomes one of ours.

    Attributes:
        name: smp's class.
        options: smp's names of the arguments that only this architecture has.
        rules: smp's names of the decoder's and the head's tensors -> ours.
        untold: smp's names of those that change the logits and leave no trace in tensors -> smp's
            defaults.
        depth: smp's default ``encoder_depth``.
        typical: A tensor that tells the architecture from all others.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[tuple[Rule, ...]]
    untold: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    depth: ClassVar[int] = 5
    typical: ClassVar[str]

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint without a config is of this architecture."""
        return self.typical in tensors

    @abstractmethod
    def arguments(
        self, tensors: Mapping[str, Tensor], given: dict[str, Any], where: str
    ) -> dict[str, Any]:
        """Arguments of our architecture, from the tensors and from smp's config.

        Args:
            tensors: Tensors of the checkpoint, in smp's names.
            given: smp's config; what is used, or contradicts the tensors and is refused, is
                taken out of it. ``encoder_depth`` stays, and is filled in where tensors tell it.
            where: The checkpoint, for messages.

        Returns:
            Where they have an ``output_stride``, how it is had follows from smp's encoder.

        Raises:
            ConversionError: Something that cannot be brought over exactly.
        """

    def plan_encoder(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        given: dict[str, Any],
        options: Mapping[str, Any],
    ) -> EncoderPlan:
        """How to build the encoder.

        Args:
            name: smp's name of it.
            tensors: Tensors of the checkpoint, in smp's names.
            given: smp's config, with ``encoder_depth``; what only the encoder needs is taken out.
            options: For ``timm.create_model``.

        Raises:
            ConversionError: It cannot be brought over exactly.
        """
        return plan_encoder(name, tensors, given["encoder_depth"], options)

    def renames(self, model: nn.Module) -> tuple[Rule, ...]:
        """:attr:`rules`, where they depend on the model of ours that was built."""
        return self.rules

    def is_unused(self, name: str, model: nn.Module) -> bool:
        """Whether smp has a tensor (in our names) that it never uses in this architecture."""
        return False


def converters() -> dict[str, SmpArchitecture]:
    """Our architecture -> its converter, for all that have one."""
    found = {}
    for name in ARCHITECTURES:
        module = f"{__package__}.{name}"
        if name.isidentifier() and find_spec(module) is not None:
            found[name] = import_module(module).CONVERTER
    return found


def rival(architecture: str) -> str | None:
    """smp's class that is the same as one of our architectures, or None."""
    converter = converters().get(architecture)
    return None if converter is None else converter.name


def told(given: dict[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Take from ``given`` what tensors tell as well, and refuse what contradicts them.

    Raises:
        ConversionError: The config says something else.
    """
    for name, expected in found.items():
        value = given.pop(name, expected)
        plain = list(value) if isinstance(value, (list, tuple)) else value
        if plain != (list(expected) if isinstance(expected, (list, tuple)) else expected):
            raise ConversionError(
                f"{where}: the config says {name}={checks.shown(value)}, its tensors say "
                f"{expected}."
            )


def told_depth(given: dict[str, Any], depth: int, where: str) -> None:
    """Set smp's ``encoder_depth`` to what tensors tell, and refuse what contradicts them.

    Raises:
        ConversionError: The config says something else.
    """
    told(given, {"encoder_depth": depth}, where)
    given["encoder_depth"] = depth


def unit_rules(pattern: str, name: str) -> tuple[Rule, ...]:
    """Rules for one of smp's conv-norm-ReLU units, which is ours under another name.

    Args:
        pattern: smp's name of it, a regular expression.
        name: Ours, as a replacement for the pattern.
    """
    return (rf"^{pattern}\.0\.", f"{name}.conv."), (rf"^{pattern}\.1\.", f"{name}.norm.")


def tensor_of(
    tensors: Mapping[str, Tensor], name: str, converter: SmpArchitecture, where: str
) -> Tensor:
    """A tensor that every checkpoint of the architecture has.

    Raises:
        ConversionError: This one has not.
    """
    if name not in tensors:
        raise ConversionError(
            f"{where} is no {converter.name} of segmentation_models_pytorch: it has not the tensor "
            f"{name}. It has: {checks.shown(sorted(tensors))}."
        )
    return tensors[name]


def tensors_of(
    tensors: Mapping[str, Tensor], name: str, converter: SmpArchitecture, where: str
) -> list[Tensor]:
    """The tensors of a name with a number, which is ``{}`` in it: number 0, 1 and so on.

    Raises:
        ConversionError: There are none, or one is missing between others.
    """
    pattern = re.compile(re.escape(name).replace(re.escape("{}"), r"(\d+)"))
    last = max((int(found[1]) for found in map(pattern.fullmatch, tensors) if found), default=0)
    return [tensor_of(tensors, name.format(i), converter, where) for i in range(last + 1)]


def depth_of(given: dict[str, Any], default: int, minimum: int, where: str) -> int:
    """smp's ``encoder_depth``, which stays in ``given``.

    Raises:
        ConversionError: It is less than ``minimum``, or none of smp's.
    """
    try:
        depth = given.setdefault("encoder_depth", default)
        return checks.integer("encoder_depth", depth, minimum=minimum, maximum=5)
    except ArgumentError as error:
        raise ConversionError(f"{where}: {error}") from error


def dropout_of(given: dict[str, Any], name: str, default: float, where: str) -> float:
    """A probability, taken from ``given``.

    Raises:
        ConversionError: It is none.
    """
    try:
        return checks.number(name, given.pop(name, default), minimum=0, maximum=1)
    except ArgumentError as error:
        raise ConversionError(f"{where}: {error}") from error


def output_stride_of(
    given: dict[str, Any], converter: SmpArchitecture, known: Sequence[int], where: str
) -> int:
    """smp's ``encoder_output_stride``, taken from ``given``.

    Raises:
        ConversionError: It is none of those that smp's class takes.
    """
    value = given.pop("encoder_output_stride", converter.untold["encoder_output_stride"])
    if type(value) is not int or value not in known:
        raise ConversionError(
            f"{where}: encoder_output_stride must be one of {', '.join(map(str, known))}, got "
            f"{checks.shown(value)}."
        )
    return value


def natural_upsampling(given: dict[str, Any], default: int, natural: int, where: str) -> None:
    """Take smp's ``upsampling`` from ``given``: by how much its head enlarges the logits.

    Raises:
        ConversionError: The logits would not have the size of the image.
    """
    value = given.pop("upsampling", default)
    if value != natural:
        raise ConversionError(
            f"{where}: with upsampling={checks.shown(value)} the logits of smp's model have not "
            f"the size of the image, as those of every model of segzoo have. That takes "
            f"upsampling={natural}; give it in the config where the model was built with it."
        )


def norm_of_tensors(tensors: Mapping[str, Tensor], unit: str) -> str:
    """Our name of the norm in one of smp's conv-norm-ReLU units."""
    if f"{unit}.0.bias" in tensors:
        return "none"
    return "batch" if f"{unit}.1.running_mean" in tensors else "instance"


def told_norm(given: dict[str, Any], norm: str, where: str) -> None:
    """Take smp's ``decoder_use_norm`` from ``given``, and refuse what contradicts the tensors.

    Raises:
        ConversionError: The config says something else, or a norm that cannot be brought over.
    """
    said = _norm_of(given.pop("decoder_use_norm", None), where)
    if said is not None and said != norm:
        raise ConversionError(
            f"{where}: the config says decoder_use_norm={said!r}, its tensors say {norm!r} (in "
            "segzoo's names)."
        )


def _norm_of(value: Any, where: str) -> str | None:
    """Our name of what smp's ``decoder_use_norm`` says, or None where it says nothing."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "batch" if value else "none"
    options = dict(value) if isinstance(value, Mapping) else {"type": value}
    kind = str(options.pop("type", None)).lower()
    if kind not in _NORMS:
        raise ConversionError(
            f"{where}: decoder_use_norm={checks.shown(value)} cannot be brought over exactly; "
            f"what can: {', '.join(_NORMS)}."
        )
    batch = kind == "batchnorm"
    defaults = {"eps": 1e-5, "momentum": 0.1, "track_running_stats": batch, "affine": True}
    for name, setting in options.items():
        if name not in defaults or setting != defaults[name]:
            raise ConversionError(
                f"{where}: decoder_use_norm has {name}={checks.shown(setting)}, which segzoo's "
                "layer has not."
            )
    return _NORMS[kind]


def interpolation(given: dict[str, Any], converter: SmpArchitecture) -> str:
    """How smp's decoder resizes, taken from ``given``.

    Raises:
        ConversionError: There is no such interpolation.
    """
    value = given.pop("decoder_interpolation", converter.untold["decoder_interpolation"])
    try:
        return checks.choice("decoder_interpolation", value, INTERPOLATIONS)
    except ArgumentError as error:
        raise ConversionError(str(error)) from error
