"""All that rebuilds a model: frozen values with a strict round trip through JSON.

A config is checked when it is made, whether a person or a file made it, so that nothing downstream
has to. The signature of each architecture is that of its config: see :func:`built_from`.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from torch import nn

from . import checks
from .errors import ArgumentError
from .preprocessing import Normalization

P = ParamSpec("P")
ConfigT = TypeVar("ConfigT", bound="ModelConfig")
ModelT = TypeVar("ModelT")

#: Far above what anybody trains, far below what would exhaust a machine.
MAX_CLASSES = 65536
MAX_BANDS = 4096
MAX_SIDE = 16384
OUTPUT_STRIDES = (8, 16, 32)
#: Methods to have an output stride, the first that works being taken; see ``encoders/dilation.py``.
DILATIONS = ("none", "timm", "convolutions")

#: Metadata of a field that says how a model is begun or computed, not what it is: not saved.
NOT_SAVED = {"saved": False}
#: Metadata of a field that is written into a file only where it is set: files of models without it
#: stay as they were before there was such a field.
WHEN_SET = {"written": "when set"}
#: How the image-level head makes one value of each channel.
POOLINGS = ("avg", "max")


@dataclass(frozen=True, kw_only=True)
class Classification:
    """A second answer, for the whole image: see ``classification`` of :class:`ModelConfig`.

    Args:
        classes: Number of image-level logits, 1 or more.
        pooling: ``avg`` or ``max`` over the encoder's deepest map.
        dropout: Probability of dropping a pooled channel in training, 0 to 1.
    """

    classes: int
    pooling: str = "avg"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        checks.integer("classes", self.classes, minimum=1, maximum=MAX_CLASSES)
        checks.choice("pooling", self.pooling, POOLINGS)
        dropout = checks.number("dropout", self.dropout, minimum=0, maximum=1)
        object.__setattr__(self, "dropout", dropout)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every architecture takes; an architecture's own config adds its options.

    Args:
        encoder: A name of :func:`segzoo.list_encoders`, with a tag of its weights if you like
            (``"resnet34.a1_in1k"``), or a module of your own with an attribute ``features``.
        classes: Number of logits for each pixel, 1 or more.
        in_channels: Bands of the image, 1 or more.
        pretrained: True loads timm's weights into the encoder, adapted to ``in_channels`` as timm
            does. A checkpoint of the same timm architecture that was trained elsewhere is loaded
            from a file (``"weights/resnet34.pth"``, or a ``Path``) or from the Hub
            (``"hf-hub:user/name"``); ``#model_ema`` behind its name says which set of weights to
            take, where there are several. This is the only argument that touches the network.
        depth: How many of the encoder's maps to use, counted from the image; None for all.
        image_size: ``(height, width)`` to build the encoder for, where it is built for a size.
            The model takes images of any size all the same.
        normalization: What the model expects of its pixels; None for what the encoder was
            trained with.
        class_names: One name for each class, saved with the model; None for no names.
        encoder_options: Passed on to ``timm.create_model`` (``{"drop_path_rate": 0.1}``), or to
            the encoder that you registered; must be plain values, so that they can be saved.
        output_stride: 8, 16 or 32: how far the encoder may shrink the image; deeper stages are
            dilated instead. None for what the architecture and the backbone are made for.
        dilation: How stages are dilated: ``timm`` by timm's own option, ``convolutions`` by giving
            every convolution of a late stage stride 1 and the stage's rate, ``none`` not at all;
            None for the first of the two that works. The weights are the same, the maps are not,
            so a model keeps the one that it was built with.
        classification: Image-level logits beside the mask, from the encoder's deepest map; None
            for none. Like the next two it is given by ``model.forward_heads`` and left out of
            everything that only predicts.
        deep_supervision: Steps of the decoder, as ``model.print_tree()`` names them
            (``("blocks.1", "blocks.2")``), each of which gets a 1x1 convolution to logits.
        auxiliary_stride: Stride of an encoder map that gets a small fully convolutional head
            (16 in PSPNet and UPerNet), in a dilated encoder the stride that it would have without;
            None for none.
    """

    encoder: str | nn.Module = field(default="resnet34", kw_only=False)
    classes: int = field(default=1, kw_only=False)
    in_channels: int = 3
    pretrained: bool | str | os.PathLike[str] = field(default=False, metadata=NOT_SAVED)
    depth: int | None = None
    image_size: tuple[int, int] | None = None
    normalization: Normalization | None = None
    class_names: tuple[str, ...] | None = None
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    output_stride: int | None = field(default=None, metadata=WHEN_SET)
    dilation: str | None = field(default=None, metadata=WHEN_SET)
    classification: Classification | None = field(default=None, metadata=WHEN_SET)
    deep_supervision: tuple[str, ...] = field(default=(), metadata=WHEN_SET)
    auxiliary_stride: int | None = field(default=None, metadata=WHEN_SET)

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, nn.Module):
            self._set(encoder=checks.text("encoder", self.encoder))
        checks.integer("classes", self.classes, minimum=1, maximum=MAX_CLASSES)
        checks.integer("in_channels", self.in_channels, minimum=1, maximum=MAX_BANDS)
        if isinstance(self.pretrained, os.PathLike):
            self._set(pretrained=os.fspath(self.pretrained))
        if not isinstance(self.pretrained, str):
            checks.flag("pretrained", self.pretrained)
        if self.depth is not None:
            checks.integer("depth", self.depth, minimum=1, maximum=1024)
        if self.image_size is not None:
            size = checks.sequence("image_size", self.image_size, _side, longest=2)
            if len(size) != 2:
                raise ArgumentError(
                    f"image_size must be (height, width), got {checks.shown(self.image_size)}."
                )
            self._set(image_size=size)
        if not isinstance(self.normalization, (Normalization, type(None))):
            raise ArgumentError(
                "normalization must be a segzoo.Normalization, got "
                f"{checks.shown(self.normalization)}."
            )
        if self.normalization is not None and len(self.normalization.mean) != self.in_channels:
            raise ArgumentError(
                f"normalization is for {len(self.normalization.mean)} bands, but "
                f"in_channels={self.in_channels}."
            )
        if self.class_names is not None:
            names = checks.sequence(
                "class_names", self.class_names, checks.text, longest=MAX_CLASSES
            )
            if len(names) != self.classes:
                raise ArgumentError(
                    f"class_names has {len(names)} names for classes={self.classes}; give one each."
                )
            self._set(class_names=names)
        if not isinstance(self.encoder_options, Mapping):
            raise ArgumentError(
                f"encoder_options must be a mapping, got {checks.shown(self.encoder_options)}."
            )
        self._set(encoder_options=checks.plain_value("encoder_options", self.encoder_options))
        self._check_heads()

    def _check_heads(self) -> None:
        if self.output_stride is not None and (
            type(self.output_stride) is not int or self.output_stride not in OUTPUT_STRIDES
        ):
            raise ArgumentError(
                f"output_stride must be one of {', '.join(map(str, OUTPUT_STRIDES))}, got "
                f"{checks.shown(self.output_stride)}."
            )
        if self.dilation is not None:
            checks.choice("dilation", self.dilation, DILATIONS)
        if not isinstance(self.classification, (Classification, type(None))):
            raise ArgumentError(
                "classification must be a segzoo.Classification, got "
                f"{checks.shown(self.classification)}."
            )
        names = checks.sequence("deep_supervision", self.deep_supervision, checks.text, longest=64)
        if len(set(names)) != len(names):
            raise ArgumentError(f"deep_supervision names a step twice: {', '.join(names)}.")
        self._set(deep_supervision=names)
        if self.auxiliary_stride is not None:
            checks.integer("auxiliary_stride", self.auxiliary_stride, minimum=1, maximum=1024)

    def _set(self, **values: Any) -> None:
        """Put checked values in their canonical form; only for ``__post_init__``."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def arguments(self) -> dict[str, Any]:
        """The arguments as plain values, for JSON.

        Without those that say how a model was begun (``pretrained``) or how it computes, not what
        it is.
        """
        values = asdict(self)
        unset = {
            item.name
            for item in fields(self)
            if item.metadata.get("written") and getattr(self, item.name) == item.default
        }
        return {name: values[name] for name in self.saved() if name not in unset}

    @classmethod
    def saved(cls) -> list[str]:
        """The names of the arguments that a saved model keeps."""
        return [item.name for item in fields(cls) if item.metadata.get("saved", True)]

    @classmethod
    def from_arguments(cls: type[ConfigT], arguments: Mapping[str, Any]) -> ConfigT:
        """The inverse of :meth:`arguments`; every value is checked again.

        Raises:
            ArgumentError: An unknown argument, a wrong type or a value out of range.
        """
        checks.keywords(cls.__name__, arguments, cls.saved())
        values = dict(arguments)
        if values.get("normalization") is not None:
            values["normalization"] = _normalization(values["normalization"])
        if values.get("classification") is not None:
            values["classification"] = _classification(values["classification"])
        return cls(**values)


class Configured:
    """What a model says of itself by its config."""

    config: ModelConfig

    @property
    def classes(self) -> int:
        """Number of logits for each pixel."""
        return self.config.classes

    @property
    def in_channels(self) -> int:
        """Bands of the image."""
        return self.config.in_channels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name for each class, or None where they have none."""
        return self.config.class_names

    @property
    def normalization(self) -> Normalization:
        """What the model expects of its pixels; call it on an image."""
        assert self.config.normalization is not None  # filled in when a model is built
        return self.config.normalization


class ConfiguredModel(Configured, nn.Module):
    """A module that its config rebuilds: what the registry, storage and drawings know of a model.

    Attributes:
        architecture: The name that it is registered by.
        base_model: The Hub repository whose weights its encoder began with, or None.
    """

    architecture: ClassVar[str]
    config_class: ClassVar[type[ModelConfig]]
    base_model: str | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()


def _side(name: str, value: Any) -> int:
    return checks.integer(name, value, minimum=1, maximum=MAX_SIDE)


def _normalization(value: Any) -> Normalization:
    if not isinstance(value, Mapping) or set(value) != {"mean", "std"}:
        raise ArgumentError(
            f"normalization must have exactly mean and std, got {checks.shown(value)}."
        )
    return Normalization(value["mean"], value["std"])


def _classification(value: Any) -> Classification:
    if not isinstance(value, Mapping):
        raise ArgumentError(f"classification must be an object, got {checks.shown(value)}.")
    checks.keywords("classification", value, ("classes", "pooling", "dropout"))
    if "classes" not in value:
        raise ArgumentError("classification must have classes.")
    return Classification(**value)


def built_from(
    config: Callable[P, ConfigT],
) -> Callable[[Callable[[ModelT, ConfigT], None]], Callable[Concatenate[ModelT, P], None]]:
    """Give an ``__init__`` that takes a config the explicit signature of that config's class.

    So the arguments of an architecture are written once, with their defaults and checks, and type
    checkers, ``help()`` and error messages all see them.
    """
    signature = inspect.signature(config)

    def decorate(
        init: Callable[[ModelT, ConfigT], None],
    ) -> Callable[Concatenate[ModelT, P], None]:
        @functools.wraps(init)
        def construct(self: ModelT, /, *args: P.args, **kwargs: P.kwargs) -> None:
            checks.keywords(type(self).__name__, kwargs, list(signature.parameters))
            init(self, config(*args, **kwargs))
            complete = getattr(self, "complete", None)
            if complete is not None:
                complete()

        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        # The function's own attribute, which inspect and help() look for first.
        vars(construct)["__signature__"] = signature.replace(
            parameters=[this, *signature.parameters.values()], return_annotation=None
        )
        return construct

    return decorate
