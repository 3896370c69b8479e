"""LinkNet on any encoder.

Chaurasia and Culurciello, "LinkNet: Exploiting Encoder Representations for Efficient Semantic
Segmentation", 2017, figures 1 and 3, with a pretrained backbone as the encoder. Widths and layers
are those of segmentation_models_pytorch, so that its checkpoints can be brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..config import built_from
from ..features import FeatureSpec
from ..nn.graph_capture import in_graph
from ..nn.layers import ConvNormAct, SegmentationHead, norm_layer, resize
from ..registry import register_architecture
from .base import SegmentationModel
from .climbing_decoder import ClimbingDecoder
from .decoder_config import DecoderConfig

#: Width of the map at the image's own size, where the encoder has none that says it (figure 1).
_LAST = 32


@dataclass(frozen=True, kw_only=True)
class LinknetConfig(DecoderConfig):
    """Arguments of :class:`Linknet`: those that every decoder of convolutions has.

    There are no widths among them: a sum needs the encoder's own.
    """


class UpConv(nn.Module):
    """Transposed convolution to twice the size (4x4, stride 2), normalisation, ReLU."""

    def __init__(self, channels: int, *, norm: str) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        self.norm = norm_layer(norm, channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, h, w)`` -> ``(N, channels, 2 h, 2 w)``."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class Fit(nn.Module):
    """Take a map to a size that it has already, but where a side was odd on the way down."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``(N, C, h, w)`` -> ``(N, C, *size)``."""
        if not in_graph() and x.shape[-2:] == size:
            return x
        return resize(x, size, mode="nearest")


class LinknetBlock(nn.Module):
    """Narrow to a quarter, double, widen to the skip's width, add the skip (figure 3).

    Args:
        in_channels: Channels of the map from below.
        out_channels: Channels of the result, and of the skip where there is one.
        norm: One of :data:`~segzoo.nn.layers.NORMS`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str) -> None:
        super().__init__()
        hidden = max(in_channels // 4, 1)
        self.narrow = ConvNormAct(in_channels, hidden, kernel=1, norm=norm)
        self.up = UpConv(hidden, norm=norm)
        self.fit = Fit()
        self.widen = ConvNormAct(hidden, out_channels, kernel=1, norm=norm)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, *size)``; the skip has that shape."""
        out: Tensor = self.widen(self.fit(self.up(self.narrow(x)), size))
        return out if skip is None else out + skip


class LinknetDecoder(ClimbingDecoder):
    """Encoder maps -> one map at stride 1.

    Args:
        features: What the maps are, finest first, one at each stride.
        config: The options.

    Attributes:
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: LinknetConfig) -> None:
        super().__init__(features)
        channels = features[-1].channels
        self.blocks = nn.ModuleList()
        for stride, skip in zip(self.strides, self.skips, strict=True):
            below = channels
            if skip is not None:
                channels = features[skip].channels
            elif stride == 1:
                channels = _LAST
            self.blocks.append(LinknetBlock(below, channels, norm=config.norm))
        self.out = FeatureSpec(channels, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps of ``features``, the image's ``(height, width)`` -> ``(N, out.channels, *size)``."""
        return self.climb(maps[-1], maps, size)


@register_architecture("linknet")
class Linknet(SegmentationModel):
    """LinkNet on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    >>> model = segzoo.Linknet("resnet18", classes=3)
    >>> model(torch.rand(1, 3, 50, 61)).shape
    torch.Size([1, 3, 50, 61])

    The lightest of the decoders that use every map of the encoder: skips are added, not
    concatenated, and convolutions at full width are 1x1.

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`LinknetConfig` for
            ``norm`` and ``dropout``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = LinknetConfig
    config: LinknetConfig

    @built_from(LinknetConfig)
    def __init__(self, config: LinknetConfig) -> None:
        super().__init__(config)
        self.decoder = LinknetDecoder(self.features, config)
        self.head = SegmentationHead(
            self.decoder.out.channels, config.classes, kernel=1, dropout=config.dropout
        )

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Maps of ``features`` -> logits of the image's size."""
        logits: Tensor = self.head(self.decoder(maps, (image.shape[-2], image.shape[-1])))
        return logits
