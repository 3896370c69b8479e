"""What every architecture shares: encoder, pyramid, any image size, training habits, storage."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import Configured, ModelConfig
from ..encoders import create_encoder
from ..errors import ArgumentError, InputError
from ..features import FeatureSpec, ceil_div
from ..sharing import in_eval_mode
from .diagram import diagram
from .inputs import check_batch, classes_of, explain_precision, warn_if_resized
from .pyramid import make_pyramid
from .storage import StoredModel

if TYPE_CHECKING:
    from typing_extensions import Self


class SegmentationModel(Configured, StoredModel):
    """Image of any size in, logits of the same size out.

    An architecture sets ``config_class``, builds its decoder from :attr:`features` in
    ``__init__`` and says in :meth:`decode` how the maps become logits; everything else is here.

    Attributes:
        config: All that rebuilds the model, frozen.
        encoder: The :class:`~segzoo.Encoder`.
        pyramid: Turns the encoder's maps into one map at each stride; without weights for most.
        features: What the decoder is given, finest first.
    """

    config_class: ClassVar[type[ModelConfig]]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = create_encoder(
            config.encoder,
            in_channels=config.in_channels,
            pretrained=config.pretrained,
            depth=config.depth,
            image_size=config.image_size,
            options=config.encoder_options,
        )
        self.base_model = self.encoder.base_model
        self.pyramid = make_pyramid(self.encoder.features)
        self.features: tuple[FeatureSpec, ...] = self.pyramid.features
        self.config = replace(
            config,
            encoder=self.encoder.name,
            pretrained=False,
            normalization=config.normalization or self.encoder.normalization,
        )

    @abstractmethod
    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of :attr:`features` and the image they came from -> logits of the image's size."""

    @property
    def threshold(self) -> float:
        """With one class: the output above which a pixel belongs to it (probability one half)."""
        return 0.0

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
        if self.training:
            self._check_statistics(image)
        warn_if_resized(image, self.encoder)
        if torch.compiler.is_dynamo_compiling():  # it could not break a graph inside of try
            return self._segment(image)
        try:
            return self._segment(image)
        except RuntimeError as error:
            explain_precision(error, image, self)
            raise

    def _segment(self, image: Tensor) -> Tensor:
        fitted = self.encoder.size_rule.fit(image)
        logits = self.decode(self.pyramid(self.encoder(fitted)), fitted)
        return self.encoder.size_rule.restore(logits, (image.shape[-2], image.shape[-1]))

    @torch.no_grad()
    def predict(self, image: Tensor) -> Tensor:
        """The class of each pixel of a picture, in eval mode whatever mode the model is in.

        The model itself stays in its mode, so that other threads may train or use it meanwhile. In
        training mode each call makes a copy of its modules, on the same weights, which takes some
        hundredths of a second: for many pictures call ``eval()`` first.

        Args:
            image: ``(C, H, W)`` or ``(N, C, H, W)``; uint8, uint16, or floating point in 0..1:
                the model's own normalisation is applied here.

        Returns:
            ``(H, W)`` or ``(N, H, W)``, int64: the class with the largest logit, or with one
            class 1 where its probability is above one half.
        """
        with in_eval_mode(self) as model:
            return classes_of(model, image, next(model.parameters()))

    def print_tree(self) -> None:
        """Print the encoder's maps, the decoder's steps and the skip connections between them.

        One row for each stride, the image on top; see :func:`segzoo.models.diagram.diagram`.
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
        """
        for name, value in (("lr", lr), ("encoder_scale", encoder_scale)):
            if not value > 0:
                raise ArgumentError(f"{name} must be above 0, got {value}.")
        early, late, rest = self.parameter_split()
        return [
            {"name": "encoder.early", "params": early, "lr": lr * encoder_scale**2},
            {"name": "encoder.late", "params": late, "lr": lr * encoder_scale},
            {"name": "decoder", "params": rest, "lr": lr},
        ]

    def parameter_split(self) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of stem and early stages, of late stages, and of all that is not encoder."""
        stages = self.encoder.stages()
        middle = ceil_div(len(stages), 2)
        backbone = dict(self.encoder.backbone.named_parameters())
        early = [backbone[name] for stage in stages[:middle] for name in stage]
        late = [backbone[name] for stage in stages[middle:] for name in stage]
        inside = {id(parameter) for parameter in self.encoder.parameters()}
        return early, late, [item for item in self.parameters() if id(item) not in inside]

    def _check_statistics(self, image: Tensor) -> None:
        """One value for each channel has no variance: say so before batch normalisation does."""
        stride = self.encoder.stride
        cells = ceil_div(image.shape[-2], stride) * ceil_div(image.shape[-1], stride)
        if image.shape[0] * cells == 1 and any(
            isinstance(module, _BatchNorm) and module.training for module in self.modules()
        ):
            raise InputError(
                f"A batch of one image of {image.shape[-2]}x{image.shape[-1]} leaves one value for "
                f"each channel at stride {stride}, too few for batch normalisation in training "
                "mode. Use more images, or larger ones."
            )
