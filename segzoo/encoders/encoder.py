"""The encoder: any backbone behind one face, saying of itself what a decoder must know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EncoderError
from ..features import FeatureSpec, check_pyramid
from ..nn.layers import is_channels_last
from ..nn.sharing import Lock, collects_by_hooks
from ..preprocessing import IDENTITY, Normalization
from .dilation import Dilated
from .prefix_tokens import WithTokens, tokens_of
from .sizes import ANY_SIZE, SizeRule
from .stages import parameter_stages, whole_modules


class Encoder(nn.Module):
    """A backbone that gives feature maps, and the description of them.

    Use :func:`segzoo.create_encoder` to get one by name. Made by hand, it adapts any module:

    Args:
        backbone: Takes an image ``(N, in_channels, H, W)`` and gives a list of maps, finest first.
        features: What those maps are.
        name: What the backbone is saved as; for a timm backbone ``architecture.tag``.
        in_channels: Bands of the image.
        normalization: What the backbone expects of its pixels.
        size_rule: Which image sizes it takes.
        channels_last: Its maps are ``(N, H, W, C)``.
        base_model: The Hub repository that its weights came from, or None.
        dilated: How its late stages were dilated, or None where it is as it was made.

    Attributes:
        features: A tuple of :class:`~segzoo.features.FeatureSpec`, finest first.
        began_pretrained: Whether it began with weights that had learned already, wherever they came
            from: :func:`segzoo.train` lets such an encoder learn more slowly. Known of encoders
            that were built by name; set it where your own module did.
        frozen_stages: How many stages, counted from the image, are frozen.
        built_with: What it was built with by name, as arguments of a model's config: ``depth``,
            ``image_size`` and ``encoder_options``. A model around it is saved with them.
        takes_depth: Whether its name takes a ``depth``, which says how many of its maps are built.
        extra_outputs: How many outputs come after the maps: tokens that an architecture wants.
        one_at_a_time: Held while a backbone runs that collects its maps by hooks: two threads would
            mix them up. None for others, which run side by side.
    """

    one_at_a_time: Lock | None = None

    def __init__(
        self,
        backbone: nn.Module,
        features: Sequence[FeatureSpec],
        *,
        name: str,
        in_channels: int = 3,
        normalization: Normalization = IDENTITY,
        size_rule: SizeRule = ANY_SIZE,
        channels_last: bool = False,
        base_model: str | None = None,
        dilated: Dilated | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = check_pyramid(features)
        self.name = name
        self.in_channels = in_channels
        self.normalization = normalization.for_bands(in_channels)
        self.size_rule = size_rule
        self.channels_last = channels_last
        #: Whether such maps are copied to lie as the weights do; a traced model leaves the layout
        #: to who runs it.
        self.lays_out = True
        self.base_model = base_model
        self.began_pretrained = base_model is not None
        self.built_with: dict[str, Any] = {}
        self.takes_depth = False
        if collects_by_hooks(backbone):
            self.one_at_a_time = Lock()
        self.dilated = dilated
        #: Class and register tokens beside each map, where an architecture wants them.
        self.prefix_tokens = 0
        self.extra_outputs = int(getattr(backbone, "extra_outputs", 0))
        self.frozen_stages = 0
        self._frozen: frozenset[str] = frozenset()  # the names in those stages
        self._taken: frozenset[str] = frozenset()  # of these, what was trainable before

    @property
    def stride(self) -> int:
        """The stride of the deepest map."""
        return self.features[-1].stride

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of each map, finest first."""
        return tuple(feature.channels for feature in self.features)

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each map, finest first."""
        return tuple(feature.stride for feature in self.features)

    @property
    def made_for(self) -> tuple[int, ...]:
        """The stride of each map before any dilation, finest first: it tells stages apart."""
        return self.strides if self.dilated is None else self.dilated.made_for

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps ``(N, channels_i, h_i, w_i)`` of an image ``(N, in_channels, H, W)``.

        With :attr:`prefix_tokens` they are followed by the tokens of each, ``(N, P, channels_i)``;
        with queries, as :class:`~segzoo.EoMT` has them, by those.
        """
        if self.one_at_a_time is None or torch.compiler.is_dynamo_compiling():
            maps = self.backbone(image)
        else:
            with self.one_at_a_time:
                maps = self.backbone(image)
        if not self.channels_last:
            return list(maps)
        maps = [item.permute(0, 3, 1, 2) for item in maps]
        if not self.lays_out or is_channels_last(self.backbone):
            return maps
        # A plain model computes plane by plane, as with every other backbone. smp does so too, and
        # in another layout a decoder adds up in another order.
        return [item.contiguous() for item in maps]

    def give_tokens(self) -> None:
        """Give the prefix tokens too, where the backbone is a transformer that has them."""
        self.prefix_tokens = tokens_of(self.backbone)
        if self.prefix_tokens:
            self.backbone = WithTokens(self.backbone)
            self.extra_outputs = len(self.features)

    def stages(self) -> list[list[str]]:
        """The names of the backbone's parameters, stage by stage.

        Stage ``i`` holds what map ``i`` needs and no earlier map does (the stem is part of the
        first); what no map needs is counted to the last. Found from the graph of gradients, so it
        holds for every backbone. What an architecture has added to it is of no stage.
        """
        count = len(self.features)
        stages = parameter_stages(self.backbone, self.in_channels, self.size_rule, count)
        added: frozenset[str] = getattr(self.backbone, "added", frozenset())
        return [[name for name in stage if name not in added] for stage in stages]

    def freeze(self, stages: int | None = None) -> None:
        """Stop training the first ``stages`` stages (None: all of them).

        Their parameters get no gradient, and their modules stay in eval mode whatever
        :meth:`train` says: running statistics stand still, drop-path and dropout are off.

        Raises:
            EncoderError: There are not that many stages.
        """
        every = self.stages()
        count = len(every) if stages is None else stages
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(every):
            raise EncoderError(
                f"stages must be between 1 and {len(every)} for {self.name!r} (or None for all of "
                f"them), got {stages!r}."
            )
        self.unfreeze()
        parameters = dict(self.backbone.named_parameters())
        self.frozen_stages = count
        self._frozen = frozenset(name for stage in every[:count] for name in stage)
        self._taken = frozenset(name for name in self._frozen if parameters[name].requires_grad)
        for name in self._taken:
            parameters[name].requires_grad_(False)
        self.train(self.training)

    def unfreeze(self) -> None:
        """Train everything again that :meth:`freeze` had stopped and that is still there.

        A parameter that somebody has renamed since, as adapters do, is left as they want it.
        """
        for name, parameter in self.backbone.named_parameters():
            if name in self._taken:
                parameter.requires_grad_(True)
        self._frozen = self._taken = frozenset()
        self.frozen_stages = 0
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """Switch to training mode, except for what is frozen."""
        super().train(mode)
        if mode and self.frozen_stages:
            for module in whole_modules(self.backbone, self._frozen):
                module.eval()
        return self

    def extra_repr(self) -> str:
        """What ``print(model)`` says of the encoder."""
        return f"{self.name}, channels={self.channels}, strides={self.strides}"
