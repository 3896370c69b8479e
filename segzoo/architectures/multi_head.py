"""Several heads on one encoder, which an image passes once.

A head is the decoder of any architecture, with classes of its own: so a frozen backbone serves many
tasks for the price of one, as in Oquab et al., "DINOv2: Learning Robust Visual Features without
Supervision", 2023, section 7.4.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor, nn

from .. import checks
from ..config import MAX_CLASSES, ModelConfig, built_from
from ..errors import ArgumentError, UnknownNameError, nearest
from ..prediction.inputs import check_batch, warn_if_resized
from ..registry import ARCHITECTURES, register_architecture
from .base import SegmentationModel
from .explain import explained
from .heads import Outputs
from .wants import Wants

#: More heads than that are a mistake, or somebody's attempt to fill a memory.
_MOST = 64
#: What heads may be called: their names are names of modules, and of weights in a file.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
#: What the encoder was built with, and heads have in common.
_SHARED = (
    *("encoder", "in_channels", "depth", "image_size", "normalization"),
    *("encoder_options", "output_stride", "dilation"),
)


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head of :class:`MultiHead`: the decoder of an architecture.

    Args:
        architecture: One of :data:`segzoo.ARCHITECTURES`.
        classes: Number of logits for each pixel.
        class_names: One name for each class; None for no names.
        options: Of that architecture, without those that all architectures share
            (``{"decoder_channels": 64}``).
    """

    architecture: str = field(kw_only=False)
    classes: int = field(default=1, kw_only=False)
    class_names: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.choice("architecture", self.architecture, ARCHITECTURES)
        checks.integer("classes", self.classes, minimum=1, maximum=MAX_CLASSES)
        kind = ARCHITECTURES[self.architecture]
        if not _decodes(kind):
            raise _no_head(kind)
        shared = {item.name for item in fields(ModelConfig)}
        own = [name for name in kind.config_class.saved() if name not in shared]
        if not isinstance(self.options, Mapping):
            raise ArgumentError(f"options must be a mapping, got {checks.shown(self.options)}.")
        checks.keywords(f"A head {self.architecture!r}", self.options, own)
        options = checks.plain_value("options", self.options)
        names = self.class_names
        made = kind.config_class("head", self.classes, class_names=names, **options)  # checks them
        wants: Any = getattr(kind, "wants", None)
        if wants(made).queries is not None:
            raise _no_head(kind)
        object.__setattr__(self, "class_names", made.class_names)
        object.__setattr__(self, "options", options)


def _no_head(kind: type[Any]) -> ArgumentError:
    return ArgumentError(
        f"{kind.__name__} cannot be a head: it does more than to decode the maps that an encoder "
        "gives. Take an architecture that is a decoder, such as unet, fpn or linear_head."
    )


def _decodes(kind: type[Any]) -> bool:
    """Whether an architecture is a decoder: its logits follow from its encoder's maps alone."""
    whole = ("forward", "forward_heads", "decode_fully")
    return all(getattr(kind, name) is getattr(SegmentationModel, name) for name in whole)


@dataclass(frozen=True, kw_only=True)
class MultiHeadConfig(ModelConfig):
    """Arguments of :class:`MultiHead`.

    Args:
        heads: The heads by name; the first is the one that answers where one answer is wanted.
            None for one U-Net, ``mask``.
        classes: Those of the first head; 0 to take them from there.
        class_names: Those of the first head.
    """

    classes: int = field(default=0, kw_only=False)
    heads: Mapping[str, Head] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.encoder, Mapping):
            raise ArgumentError(
                "The encoder comes first, then the heads: "
                "segzoo.MultiHead('resnet34', heads={'road': segzoo.Head('unet', classes=2)})."
            )
        heads = self._checked_heads()
        name, first = next(iter(heads.items()))
        for what in ("classes", "class_names"):
            given, there = getattr(self, what), getattr(first, what)
            if isinstance(given, list):
                given = tuple(given)
            if given not in (0, None, there):
                raise ArgumentError(
                    f"{what}={checks.shown(given)}, but the first head {name!r} has "
                    f"{checks.shown(there)}. Each head says its own; leave it out here."
                )
        self._set(heads=heads, classes=first.classes, class_names=first.class_names)
        super().__post_init__()
        if self.deep_supervision or self.auxiliary_stride or self.classification:
            raise ArgumentError(
                "deep_supervision, auxiliary_stride and classification are for models of one head."
            )

    def _checked_heads(self) -> dict[str, Head]:
        if self.heads is None:
            return {"mask": Head("unet", self.classes or 1, class_names=self.class_names)}
        if not isinstance(self.heads, Mapping) or not 1 <= len(self.heads) <= _MOST:
            raise ArgumentError(
                f"heads must be a mapping of 1 to {_MOST} names to segzoo.Head, got "
                f"{checks.shown(self.heads)}."
            )
        return {_name(name): _head(name, head) for name, head in self.heads.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or hasattr(nn.ModuleDict(), name):
        raise ArgumentError(
            f"A head cannot be called {checks.shown(name)}: take up to 64 letters, digits, _ and "
            "-, and no name of a method of torch.nn.ModuleDict."
        )
    return name


def _head(name: str, head: Any) -> Head:
    if isinstance(head, Head):
        return head
    if not isinstance(head, Mapping) or "architecture" not in head:
        raise ArgumentError(f"The head {name!r} must be a segzoo.Head, got {checks.shown(head)}.")
    checks.keywords(f"The head {name!r}", head, [item.name for item in fields(Head)])
    return Head(**head)


@register_architecture("multi_head")
class MultiHead(SegmentationModel):
    """Several heads on one encoder, which an image ``(N, in_channels, H, W)`` passes once.

    >>> heads = {"road": segzoo.Head("unet", 2), "depth-bins": segzoo.Head("linear_head", 64)}
    >>> model = segzoo.MultiHead("resnet18", heads=heads)
    >>> {name: tuple(x.shape) for name, x in model.answers(torch.rand(1, 3, 97, 64)).items()}
    {'road': (1, 2, 97, 64), 'depth-bins': (1, 64, 97, 64)}

    It is saved and loaded as any model. Wherever one answer is wanted (``forward``, ``predict``,
    ``export`` ...) it is the first head's; :meth:`single` gives a model of any head by itself.

    Heads get the maps of one encoder, so what an architecture wishes of its own (another output
    stride, a transformer's class token) they do without: ``output_stride`` is said for all.

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`MultiHeadConfig` for
            ``heads``.

    Attributes:
        heads: The heads by name; each a model without an encoder of its own.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = MultiHeadConfig
    config: MultiHeadConfig

    @built_from(MultiHeadConfig)
    def __init__(self, config: MultiHeadConfig) -> None:
        super().__init__(config)
        assert config.heads is not None
        self.heads = nn.ModuleDict({name: self._made(head) for name, head in config.heads.items()})

    def _made(self, head: Head) -> SegmentationModel:
        config = self.config
        kind: Any = ARCHITECTURES[head.architecture]
        encoder = copy.copy(self.encoder)
        # An encoder that somebody else made may have tokens; one that is loaded has none for heads.
        encoder.prefix_tokens = 0
        model: SegmentationModel = kind(
            encoder,
            head.classes,
            in_channels=config.in_channels,
            normalization=config.normalization,
            class_names=head.class_names,
            **head.options,
        )
        # A head has it at hand, but it is no part of the head: there is one encoder to be moved,
        # saved and trained.
        del model.encoder
        vars(model)["encoder"] = self.encoder
        return model

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The encoder's own maps; heads choose among them."""
        return Wants(own_maps=True)

    @property
    def first(self) -> SegmentationModel:
        """The head that answers where one answer is wanted."""
        return next(iter(self._heads().values()))

    @property
    def threshold(self) -> float:
        """That of the first head, whose outputs are compared with it."""
        return self.first.threshold

    @property
    def gives_logits(self) -> bool:
        """Whether the outputs of the first head are logits."""
        return self.first.gives_logits

    def _heads(self) -> dict[str, SegmentationModel]:
        heads: Any = self.heads
        return dict(heads.items())

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """The encoder's maps -> logits of the first head, of the image's size."""
        return self.first.decode_fully(maps, image)

    def answers(self, image: Tensor, *, maps: list[Tensor] | None = None) -> dict[str, Tensor]:
        """The logits of every head, after one pass of the image through the encoder.

        Args:
            image: As for :meth:`forward`.
            maps: What the encoder gave for it before; None to run the encoder.

        Returns:
            ``(N, classes, H, W)`` by the head's name, each with its own number of classes.

        Raises:
            InputError: As :meth:`forward`.
        """
        check_batch(image, self.in_channels)
        warn_if_resized(image, self.encoder)
        rule, size = self.encoder.size_rule, (image.shape[-2], image.shape[-1])
        fitted = rule.fit(image)
        with explained(self, image, fitted):
            maps = self.encoder(fitted) if maps is None else maps
            found = {name: head.decode_fully(maps, fitted) for name, head in self._heads().items()}
        return {name: rule.restore(logits, size) for name, logits in found.items()}

    def forward_heads(self, image: Tensor, *, maps: list[Tensor] | None = None) -> Outputs:
        """The first head's logits, and as ``auxiliary`` those of all heads by name.

        They are answers to other questions: :func:`segzoo.losses.outputs_loss`, which learns one
        mask with all of them, is not for them.

        Args:
            image: As for :meth:`forward`.
            maps: What the encoder gave for it before; None to run the encoder.

        Raises:
            InputError: As :meth:`forward`.
        """
        found = self.answers(image, maps=maps)
        return Outputs(next(iter(found.values())), found, None)

    def single(self, head: str) -> SegmentationModel:
        """A model of one head, for whatever works with one: to predict, to export, to train alone.

        Encoder and head are those of this model, not copies. It is saved as any model, but for one
        case: a DPT that projects tokens (``readout="project"``) has none here, and would have them
        on an encoder of its own; it is saved with the other heads alone.

        >>> heads = {"road": segzoo.Head("unet", 2), "sky": segzoo.Head("fpn", 2)}
        >>> type(segzoo.MultiHead("resnet18", heads=heads).single("sky")).__name__
        'FPN'

        Raises:
            UnknownNameError: There is no such head.
        """
        heads = self._heads()
        if head not in heads:
            raise UnknownNameError(
                f"There is no head {checks.shown(head)}.{nearest(str(head), heads)} There are: "
                f"{', '.join(heads)}."
            )
        shared = {id(part): part for part in (self.encoder, *heads[head].children())}
        model = copy.deepcopy(heads[head], shared)
        del vars(model)["encoder"]
        model.encoder = self.encoder
        values = {name: getattr(self.config, name) for name in _SHARED}
        for name in ("depth", "dilation"):  # what a head found out about the encoder stands
            values[name] = values[name] or getattr(model.config, name)
        model.config = replace(model.config, **values)
        model.base_model = self.base_model
        return model.train(self.training)
