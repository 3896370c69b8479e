"""UNet++ on any encoder.

Zhou, Siddiquee, Tajbakhsh and Liang, "UNet++: A Nested U-Net Architecture for Medical Image
Segmentation", 2018, figure 1, with a pretrained backbone as the encoder. Widths and layers are
those of segmentation_models_pytorch, so that its checkpoints can be brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .. import checks
from ..config import ModelConfig, built_from
from ..features import FeatureSpec
from ..registry import register_architecture
from .climbing_decoder import ClimbingDecoder
from .climbing_model import ClimbingModel
from .decoder_config import JoiningConfig, block_widths
from .unet import UnetBlock
from .wants import Wants


@dataclass(frozen=True, kw_only=True)
class UnetPlusPlusConfig(JoiningConfig):
    """Arguments of :class:`UnetPlusPlus`, on top of what such decoders share.

    ``decoder_channels`` are the widths of the last node of each level; the nodes before it are as
    wide as the encoder's map of that level.

    Args:
        full_resolution: Whether a map of the image's own size, which VGG and few others give, is a
            level with nodes of its own, as in the paper. That costs two thirds more on vgg11;
            without it that map is not used.
    """

    full_resolution: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("full_resolution", self.full_resolution)


class UnetPlusPlusDecoder(ClimbingDecoder):
    """Encoder maps -> one map at stride 1, through nested and dense skip connections.

    Node ``x_i_j`` is X^{i,j} of the paper's figure 1: level ``i`` is that of the encoder's map
    ``i``, counted from the finest, and ``j`` counts along the skip connection. A node resizes
    ``x_{i+1}_{j-1}`` and joins it to all nodes before it in its own level (equation 1). Where the
    encoder has no map of a stride there is no level: the last node of the level below is refined at
    that stride by a block ``up_stride``, and the others wait for the next level.

    Args:
        features: What the maps are, finest first, one at each stride.
        config: The options; its widths are one for each of
            :func:`~segzoo.features.decoder_strides`.

    Attributes:
        channels: Channels of the last block at each stride.
        out: What the result is.
    """

    def __init__(self, features: Sequence[FeatureSpec], config: UnetPlusPlusConfig) -> None:
        super().__init__(features)
        self.channels = block_widths(config, features)
        blocks: dict[str, nn.Module] = {}
        below = [features[-1].channels]
        for stride, i, width in zip(self.strides, self.skips, self.channels, strict=True):
            if i is None:
                name = f"up_{stride}"
                blocks[name] = UnetBlock(below[-1], 0, width, config, attend_input=stride > 1)
                below[-1] = width
                continue
            level = [features[i].channels]
            for j, channels in enumerate(below, 1):
                out = width if j == len(below) else features[i].channels
                blocks[f"x_{i}_{j}"] = UnetBlock(channels, sum(level), out, config)
                level.append(out)
            below = level
        self.blocks = nn.ModuleDict(blocks)
        self.out = FeatureSpec(below[-1], 1)
        self.compute(config)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps of ``features``, the image's ``(height, width)`` -> ``(N, out.channels, *size)``."""
        # Level by level rather than along the diagonals: a level that is done can be forgotten.
        blocks = enumerate(self.blocks.children())
        below = [maps[-1]]
        for stride, i in zip(self.strides, self.skips, strict=True):
            if i is None:
                target = self.target(None, size, stride)
                below[-1] = self.run(*next(blocks), below[-1], None, target)
                continue
            target = self.target(maps[i], size, stride)
            level = [maps[i]]
            for x in below:
                nearest_first = tuple(reversed(level[1:]))
                level.append(self.run(*next(blocks), x, maps[i], target, nearest_first))
            below = level
        return below[-1]


@register_architecture("unetplusplus")
class UnetPlusPlus(ClimbingModel):
    """UNet++ on any encoder: image ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

    >>> model = segzoo.UnetPlusPlus("resnet18", classes=3)
    >>> model(torch.rand(1, 3, 50, 61)).shape
    torch.Size([1, 3, 50, 61])

    It costs two to three times as much as :class:`Unet`. The paper's deep supervision (section 3.2)
    asks for the nodes of the finest level; :meth:`forward_heads` gives their logits:

    >>> heads = ("blocks.x_0_1", "blocks.x_0_2", "blocks.x_0_3", "blocks.x_0_4")
    >>> model = segzoo.UnetPlusPlus("resnet18", classes=3, deep_supervision=heads)
    >>> model.forward_heads(torch.rand(2, 3, 64, 64)).auxiliary["blocks.x_0_1"].shape
    torch.Size([2, 3, 64, 64])

    Args:
        encoder: A name, or a module of your own; see :class:`~segzoo.config.ModelConfig` for this
            and all other arguments that architectures share, and :class:`UnetPlusPlusConfig` for
            ``decoder_channels``, ``norm``, ``attention``, ``dropout``, ``interpolation``,
            ``full_resolution``, ``decoder_impl`` and ``checkpoint``.

    Raises:
        ArgumentError: An argument that cannot work; unknown names get a suggestion.
        EncoderError: timm cannot build the encoder.
    """

    config_class = UnetPlusPlusConfig
    config: UnetPlusPlusConfig
    decoder: UnetPlusPlusDecoder

    @built_from(UnetPlusPlusConfig)
    def __init__(self, config: UnetPlusPlusConfig) -> None:
        super().__init__(config)
        self._complete_with(UnetPlusPlusDecoder(self.features, config))

    @classmethod
    def wants(cls, config: ModelConfig) -> Wants:
        """All maps of the encoder, but for one of the image's size where that is not wanted."""
        assert isinstance(config, UnetPlusPlusConfig)
        return Wants(finest=1 if config.full_resolution else 2)
