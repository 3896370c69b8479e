"""What every architecture shares: encoder, pyramid, any image size, training habits, storage."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..config import ModelConfig
from ..encoders import Encoder, SizeRule, create_encoder
from ..errors import ArgumentError
from ..features import FeatureSpec, ceil_div
from ..nn.sharing import in_eval_mode
from ..prediction.inputs import check_batch, warn_if_resized
from ..prediction.masks import classes_of
from ..registry import ARCHITECTURES
from ..storage.pretrained import StoredModel
from .diagram import diagram, steps_of
from .explain import explained
from .heads import (
    ClassificationHead,
    FCNHead,
    Outputs,
    encoder_map,
    module_key,
    outputs_of,
    to_logits,
)
from .wants import Wants, make_maps, maps_are_told

if TYPE_CHECKING:
    from typing_extensions import Self


class SegmentationModel(StoredModel, ABC):
    """Image of any size in, logits of the same size out.

    An architecture sets ``config_class``, builds its decoder from :attr:`features` in
    ``__init__`` and says in :meth:`decode` how the maps become logits; everything else is here.

    Attributes:
        config: All that rebuilds the model, frozen.
        encoder: The :class:`~segzoo.Encoder`.
        pyramid: Turns the encoder's maps into one map at each stride; without weights for most.
        features: What the decoder is given, finest first.
        align_corners: None where :meth:`decode` gives logits of the image's size; else they are
            resized to it, bilinearly, with that setting of torch's.
        auxiliary_heads: What ``deep_supervision`` and ``auxiliary_stride`` ask for, by name.
        classification_head: What ``classification`` asks for, or None.
    """

    align_corners: bool | None = None
    auxiliary_heads: nn.ModuleDict
    classification_head: ClassificationHead | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        asked = config
        if isinstance(config.encoder, Encoder):  # it says itself how it was built
            config = replace(config, **config.encoder.built_with)
        wants = self.wants(config)
        self.encoder = create_encoder(
            config.encoder,
            in_channels=config.in_channels,
            pretrained=config.pretrained,
            depth=asked.depth,
            image_size=asked.image_size,
            options=asked.encoder_options,
            output_stride=config.output_stride,
            preferred_stride=wants.output_stride,
            dilation=config.dilation,
            coarsest=None if maps_are_told(asked) else wants.coarsest,
            queries=wants.queries,
        )
        if wants.prefix_tokens and not isinstance(config.encoder, nn.Module):
            self.encoder.give_tokens()  # never to an encoder that somebody else holds
        # Encoders are shared: what one gives beside its maps is for who asked for it.
        tokens = wants.prefix_tokens and self.encoder.prefix_tokens > 0
        self._takes_tokens = tokens or wants.queries is not None
        self.base_model = self.encoder.base_model
        self.pyramid = make_maps(self.encoder, wants, config.output_stride)
        self.features: tuple[FeatureSpec, ...] = self.pyramid.features
        self.auxiliary_heads = nn.ModuleDict()
        self.classification_head = None
        self.config = replace(
            config,
            encoder=self.encoder.name,
            pretrained=False,
            normalization=config.normalization or self.encoder.normalization,
            **self._dilation(config, wants),
        )

    def _dilation(self, config: ModelConfig, wants: Wants) -> dict[str, Any]:
        """How the encoder came to its output stride: a saved model is dilated as it was built."""
        found = self.encoder.dilated
        if found is not None and "output_stride" not in config.encoder_options:
            return {"output_stride": found.output_stride, "dilation": found.dilation}
        asked = config.output_stride or config.dilation or wants.output_stride
        return {"dilation": "none"} if asked and found is None else {}

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """What the architecture asks of its encoder, given its options."""
        return Wants()

    @abstractmethod
    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of :attr:`features` (and tokens, where wanted) and their image -> logits.

        They have the image's size where :attr:`align_corners` is None, else any.
        """

    def decode_fully(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """The encoder's maps and its image -> logits of that image's size."""
        count = len(self.encoder.features)
        chosen: list[Tensor] = self.pyramid(maps[:count])
        if self._takes_tokens:
            chosen = [*chosen, *maps[count:]]
        return self.resized(self.decode(chosen, image), image)

    def resized(self, logits: Tensor, image: Tensor) -> Tensor:
        """The last step: logits of the image's size, wherever the decoder ended."""
        if self.align_corners is None:
            return logits
        size = (image.shape[-2], image.shape[-1])
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=self.align_corners)

    @property
    def stride(self) -> int:
        """Pixels between the steps that all maps share: where tiles of an image may begin."""
        return math.lcm(self.encoder.stride, self.encoder.size_rule.multiple)

    @property
    def size_rule(self) -> SizeRule:
        """Which image sizes the encoder takes as they are."""
        return self.encoder.size_rule

    @property
    def threshold(self) -> float:
        """With one class: the output above which a pixel belongs to it (probability one half)."""
        return 0.0

    @property
    def gives_logits(self) -> bool:
        """Whether outputs are logits, of any size and sign, which losses are made for."""
        return True

    def forward(self, image: Tensor) -> Tensor:
        """Segment a batch of images.

        Args:
            image: ``(N, in_channels, H, W)``, floating point, normalised
                (``model.normalization(image)``); any height and width.

        Returns:
            Logits ``(N, classes, H, W)``.

        Raises:
            InputError: Another shape or dtype, a precision that is not the model's (outside
                autocast), or a batch that batch normalisation cannot use.
        """
        check_batch(image, self.in_channels)
        warn_if_resized(image, self.encoder)
        fitted = self.encoder.size_rule.fit(image)
        with explained(self, image, fitted):
            logits = self.decode_fully(self.encoder(fitted), fitted)
        return self.encoder.size_rule.restore(logits, (image.shape[-2], image.shape[-1]))

    def forward_heads(self, image: Tensor, *, maps: list[Tensor] | None = None) -> Outputs:
        """Segment a batch of images, with everything else that the model was built to answer.

        For training with ``classification``, ``deep_supervision`` or ``auxiliary_stride``:

        >>> model = segzoo.Unet("resnet18", classes=3, deep_supervision=("blocks.2",))
        >>> outputs = model.forward_heads(torch.rand(2, 3, 64, 64))
        >>> outputs.logits.shape, outputs.auxiliary["blocks.2"].shape
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 3, 64, 64]))

        Args:
            image: As for :meth:`forward`.
            maps: What the encoder gave for it before, ``encoder(size_rule.fit(image))``; None to
                run the encoder.

        Returns:
            Logits, more logits of that shape by name, and image-level logits.

        Raises:
            InputError: As :meth:`forward`.
        """
        check_batch(image, self.in_channels)
        warn_if_resized(image, self.encoder)
        size = (image.shape[-2], image.shape[-1])
        rule = self.encoder.size_rule
        fitted = rule.fit(image)
        steps = {name: self.decoder_step(name) for name in self.config.deep_supervision}
        with explained(self, image, fitted), outputs_of(steps) as found:
            maps = self.encoder(fitted) if maps is None else maps
            logits = self.decode_fully(maps, fitted)
        if self.config.auxiliary_stride is not None:
            index = encoder_map(self.encoder.made_for, self.config.auxiliary_stride)
            assert index is not None  # checked when the head was built
            found["encoder"] = maps[index]
        auxiliary = {
            name: rule.restore(self._up(self.auxiliary_heads[module_key(name)](item), fitted), size)
            for name, item in found.items()
        }
        labels = None
        if self.classification_head is not None:
            labels = self.classification_head(maps[len(self.encoder.features) - 1])
        return Outputs(rule.restore(logits, size), auxiliary, labels)

    @staticmethod
    def _up(logits: Tensor, image: Tensor) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def complete(self) -> None:
        """Add what the config asks for beside the mask; called once the decoder is there.

        Raises:
            ArgumentError: The decoder has no such step, or the encoder no map of that stride.
        """
        config = self.config
        heads: dict[str, nn.Module] = {}
        if config.deep_supervision:
            channels = {step.name: step.channels for step in steps_of(self)}
            for name in config.deep_supervision:
                checks.choice("deep_supervision", name, channels)
                heads[module_key(name)] = to_logits(channels[name], config.classes)
        if config.auxiliary_stride is not None:
            index = encoder_map(self.encoder.made_for, config.auxiliary_stride)
            if index is None:
                raise ArgumentError(
                    f"auxiliary_stride={config.auxiliary_stride}, but the encoder "
                    f"{self.encoder.name!r} gives maps of the strides {self.encoder.made_for}."
                )
            heads["encoder"] = FCNHead(self.encoder.features[index].channels, config.classes)
        self.auxiliary_heads = nn.ModuleDict(heads)
        if config.classification is not None:
            self.classification_head = ClassificationHead(
                self.encoder.features[-1].channels, config.classification
            )

    def decoder_step(self, name: str) -> nn.Module:
        """The module behind a name of :meth:`print_tree`."""
        modules: dict[str, nn.Module] = dict(self.named_modules())
        return modules.get(f"decoder.{name}") or modules[name]

    def configure_training(
        self, *, decoder_impl: str | None = None, checkpoint: bool | int | str | None = None
    ) -> Self:
        """Set how a model computes that is there already; returns the model.

        >>> model = segzoo.Unet("resnet18").configure_training(checkpoint=2)
        >>> model.config.checkpoint
        2

        Weights and results stay what they are, and nothing of it is saved with the model: it
        belongs to the machine that a model is trained on.

        Args:
            decoder_impl: As in the architecture's config; None leaves it as it is.
            checkpoint: As in the architecture's config; None leaves it as it is.

        Raises:
            ArgumentError: The architecture has no such option, or the value cannot work.
        """
        given: dict[str, Any] = {"decoder_impl": decoder_impl, "checkpoint": checkpoint}
        options = {name: value for name, value in given.items() if value is not None}
        known = {item.name for item in fields(self.config)}
        for name in options:
            if name not in known:
                raise ArgumentError(f"{type(self).__name__} has no option {name} to configure.")
        config = replace(self.config, **options)
        self.set_computing(config)
        self.config = config
        return self

    def set_computing(self, config: ModelConfig) -> None:
        """Make the decoder compute as the options of ``config`` that are not saved say."""

    @torch.no_grad()
    def predict(self, image: Tensor, *, min_confidence: float | None = None) -> Tensor:
        """The class of each pixel of a picture, in eval mode whatever mode the model is in.

        The model itself stays in its mode, so that other threads may train or use it meanwhile. In
        training mode each call makes a copy of its modules, on the same weights, which takes some
        hundredths of a second: for many pictures call ``eval()`` first.

        Args:
            image: ``(C, H, W)`` or ``(N, C, H, W)``; uint8, uint16, or floating point in 0..1:
                the model's own normalisation is applied here.
            min_confidence: Pixels whose class is less probable become 255, void: for labels that
                the next model learns from. None for none.

        Returns:
            ``(H, W)`` or ``(N, H, W)``, int64: the class with the largest logit, or with one
            class 1 where its probability is above one half.

        Raises:
            ArgumentError: ``min_confidence`` is no probability, or 255 is a class.
        """
        with in_eval_mode(self) as model:
            return classes_of(model, image, next(model.parameters()), min_confidence)

    def print_tree(self) -> None:
        """Print the encoder's maps, the decoder's steps and the skip connections between them.

        One row for each stride, the image on top; see :func:`segzoo.architectures.diagram.diagram`.
        """
        print(diagram(self))

    def freeze_encoder(self, stages: int | None = None) -> Self:
        """Stop training the encoder's first ``stages`` stages, or all of it; returns the model.

        Frozen parameters get no gradient; frozen modules stay in eval mode through
        :meth:`train`, so that running statistics stand still and drop-path is off.

        Raises:
            EncoderError: The encoder has not that many stages.
        """
        self.encoder.freeze(stages)
        return self

    def unfreeze_encoder(self) -> Self:
        """Train again what :meth:`freeze_encoder` had stopped; returns the model."""
        self.encoder.unfreeze()
        return self

    def parameter_groups(self, lr: float, *, encoder_scale: float = 0.1) -> list[dict[str, Any]]:
        """Three groups for an optimiser, with learning rates that fall towards the image.

        Discriminative learning rates as in fastai (Howard and Ruder, 2018, section 3.1): the stem
        and the early half of the stages get ``lr * encoder_scale ** 2``, the late stages
        ``lr * encoder_scale``, decoder and head ``lr``. Frozen parameters are in their groups
        too: an optimiser skips them until they are unfrozen.

        Args:
            lr: Learning rate of decoder and head.
            encoder_scale: Ratio between a group and the next one, above 0.

        Returns:
            ``[{"name": ..., "params": [...], "lr": ...}, ...]`` for ``torch.optim``.

        Raises:
            ArgumentError: One of them is no number above 0.
        """
        checks.positive("lr", lr)
        checks.positive("encoder_scale", encoder_scale)
        early, late, rest = self.parameter_split()
        return [
            {"name": "encoder.early", "params": early, "lr": lr * encoder_scale**2},
            {"name": "encoder.late", "params": late, "lr": lr * encoder_scale},
            {"name": "decoder", "params": rest, "lr": lr},
        ]

    def parameter_split(self) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of stem and early stages, of late stages, and of all that is of no stage."""
        stages = self.encoder.stages()
        middle = ceil_div(len(stages), 2)
        backbone = dict(self.encoder.backbone.named_parameters())
        early = [backbone[name] for stage in stages[:middle] for name in stage]
        late = [backbone[name] for stage in stages[middle:] for name in stage]
        inside = {id(parameter) for parameter in (*early, *late)}
        return early, late, [item for item in self.parameters() if id(item) not in inside]


def create_model(
    architecture: str, encoder: str | nn.Module = "resnet34", classes: int = 1, **arguments: Any
) -> SegmentationModel:
    """A model of an architecture that is known by its name only, with fresh weights.

    Args:
        architecture: One of :data:`segzoo.ARCHITECTURES`.
        encoder: See :class:`~segzoo.ModelConfig`.
        classes: Number of logits for each pixel.
        **arguments: Of the architecture; an unknown one is refused by its config.

    Raises:
        UnknownNameError: There is no such architecture.
        ArgumentError: An argument that cannot work.
    """
    kind: Any = ARCHITECTURES[architecture]  # each has the signature of its own config
    model = kind(encoder, classes, **arguments)
    if not isinstance(model, SegmentationModel):
        raise ArgumentError(
            f"The architecture {architecture!r} is registered as {type(model).__name__}, which is "
            "no segzoo.SegmentationModel."
        )
    return model


from_pretrained = SegmentationModel.from_pretrained
