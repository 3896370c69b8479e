"""PSPNet: pyramid pooling of one map, on any encoder.

Zhao et al., "Pyramid Scene Parsing Network", 2017, section 3.2 and figure 3. The layers are those
of segmentation_models_pytorch, so that its checkpoints can be brought over. As there, the encoder
ends at stride 8 by leaving out its deeper stages, where the paper dilates them
(``output_stride=8``), and the convolution that joins the branches is 1x1, where the paper's is 3x3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from .. import checks
from ..config import ModelConfig, built_from
from ..encoders import Encoder
from ..features import FeatureSpec
from ..nn.layers import ConvNormAct, SegmentationHead
from ..nn.pyramid_pooling import BINS, PyramidPooling
from ..registry import register_architecture
from .base import SegmentationModel
from .decoder_config import WidthConfig
from .wants import Wants

#: The stride of the paper's map.
_STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class PSPNetConfig(WidthConfig):
    """Arguments of :class:`PSPNet`, on top of what decoders share.

    Args:
        dropout: As in :class:`~segzoo.architectures.decoder_config.DecoderConfig`.
        decoder_channels: As in :class:`~segzoo.architectures.decoder_config.WidthConfig`.
        max_stride: The deepest map whose stride is not larger is pooled, or the finest where all
            are larger. None for 8, and where ``output_stride`` or ``depth`` is given, for all maps
            of that encoder. What only deeper maps need of the encoder is left out, unless ``depth``
            or ``encoder_options["out_indices"]`` says which maps it has.
    """

    dropout: float = 0.2
    decoder_channels: int = 512
    max_stride: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_stride is not None:
            checks.integer("max_stride", self.max_stride, minimum=1, maximum=1024)


class PSPNetDecoder(nn.Module):
    """The deepest map -> a map of its size.

    Args:
        features: What the maps are, finest first; the last is used.
        config: The options.

    Attributes:
        pooling: Pyramid pooling, each branch with a quarter of the map's channels.
        fuse: From the map and its branches to the result.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: PSPNetConfig) -> None:
        super().__init__()
        channels, stride = features[-1].channels, features[-1].stride
        self.pooling = PyramidPooling(
            channels,
            max(channels // len(BINS), 1),
            norm=config.norm,
            align_corners=True,
            norm_of_one_bin=False,
            map_first=False,
        )
        self.fuse = ConvNormAct(
            self.pooling.out_channels, config.decoder_channels, kernel=1, norm=config.norm
        )
        self.out = FeatureSpec(config.decoder_channels, stride)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of ``features`` -> ``(N, out.channels, h, w)``."""
        out: Tensor = self.fuse(self.pooling(maps[-1]))
        return out


@register_architecture("pspnet")
class PSPNet(SegmentationModel):
    """PSPNet on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    One map of the encoder, by default the deepest of stride 8, is pooled over grids of 1, 2, 3 and
    6 bins a side, classified at its own size, and the logits are resized to the image.

    >>> model = segzoo.PSPNet("resnet18", classes=3)
    >>> model(torch.rand(1, 3, 97, 64)).shape
    torch.Size([1, 3, 97, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`PSPNetConfig` for
            ``norm``, ``dropout``, ``decoder_channels`` and ``max_stride``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = PSPNetConfig
    config: PSPNetConfig
    align_corners = True

    @built_from(PSPNetConfig)
    def __init__(self, config: PSPNetConfig) -> None:
        super().__init__(config)
        self._tell_map(config)
        self.decoder = PSPNetDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, dropout=config.dropout
        )

    def _tell_map(self, given: PSPNetConfig) -> None:
        """Say in the config which map is pooled, of an encoder that was built with deeper ones.

        It is shared, so they stay, and are there again when the model is loaded.
        """
        encoder, pooled = self.encoder, self.features[-1].stride
        if not isinstance(given.encoder, Encoder) or encoder.stride <= pooled:
            return
        depth = self.config.depth
        if encoder.takes_depth and "out_indices" not in self.config.encoder_options:
            depth = len(encoder.features)
        self.config = replace(self.config, depth=depth, max_stride=pooled)

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """The deepest map of a stride that is not larger than asked for."""
        assert isinstance(config, PSPNetConfig)
        stride = config.max_stride
        if stride is None and config.output_stride is None and config.depth is None:
            stride = _STRIDE
        return Wants(own_maps=True, coarsest=stride, most=1)

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """The map of ``features`` -> logits of its size."""
        logits: Tensor = self.head(self.decoder(maps))
        return logits
