"""MiT, the encoder of SegFormer: a hierarchical transformer without positions.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
2021, section 3.1 and figure 2; sizes B0 to B5 of its appendix. timm has it not. Values are computed
in the order of segmentation_models_pytorch, so that its checkpoints give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ..features import FeatureSpec
from .built_in import IMAGENET, maps_wanted, no_weights, share
from .names import ENCODERS

#: Heads of each stage, and by how much its attention shrinks the map that it looks at.
_HEADS, _REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)
_EXPANSION = 4
#: Epsilon of all norms but those of patch embeddings and reduced maps, in the authors' code.
_EPS = 1e-6


@dataclass(frozen=True)
class MiTSize:
    """Channels and blocks of each stage."""

    channels: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]


_WIDE = (64, 128, 320, 512)
SIZES: Mapping[str, MiTSize] = MappingProxyType(
    {
        "mit_b0": MiTSize((32, 64, 160, 256), (2, 2, 2, 2)),
        "mit_b1": MiTSize(_WIDE, (2, 2, 2, 2)),
        "mit_b2": MiTSize(_WIDE, (3, 4, 6, 3)),
        "mit_b3": MiTSize(_WIDE, (3, 4, 18, 3)),
        "mit_b4": MiTSize(_WIDE, (3, 8, 27, 3)),
        "mit_b5": MiTSize(_WIDE, (3, 6, 40, 3)),
    }
)


def _as_map(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """``(N, H * W, C)`` -> ``(N, C, H, W)``, as a view."""
    out: Tensor = cells.transpose(1, 2).unflatten(2, size)
    return out


def _as_cells(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` -> ``(N, H * W, C)``, as a view where the map allows it."""
    return x.flatten(2).transpose(1, 2)


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values are of a smaller map.

    Section 3.1, "Efficient Self-Attention": a convolution of stride ``reduction`` makes the map.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)
        self.reduce: nn.Module = nn.Identity()
        self.norm: nn.Module = nn.Identity()
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, cells: Tensor, size: tuple[int, int]) -> Tensor:
        """``(N, H * W, channels)`` and ``(H, W)`` -> the same shape."""
        query = self.query(cells).unflatten(2, (self.heads, -1)).transpose(1, 2)
        seen = cells
        if isinstance(self.reduce, nn.Conv2d):
            seen = self.norm(_as_cells(self.reduce(_as_map(cells, size))))
        both = self.key_value(seen).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key, value = both[0], both[1]
        weights = ((query @ key.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        out: Tensor = self.project((weights @ value).transpose(1, 2).flatten(2))
        return out


class MixFFN(nn.Module):
    """Two linear layers with a depthwise convolution between them, which leaks positions in.

    Section 3.1, "Mix-FFN", equation 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _EXPANSION * channels
        self.expand = nn.Linear(channels, inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.act = nn.GELU()
        self.contract = nn.Linear(inner, channels)

    def forward(self, cells: Tensor, size: tuple[int, int]) -> Tensor:
        """``(N, H * W, channels)`` and ``(H, W)`` -> the same shape."""
        mixed = _as_cells(self.depthwise(_as_map(self.expand(cells), size)))
        out: Tensor = self.contract(self.act(mixed))
        return out


class Block(nn.Module):
    """Attention, then the feed-forward layer, each on normalised cells and added to them."""

    def __init__(
        self, channels: int, heads: int, reduction: int, *, drop_path: float, eps: float
    ) -> None:
        super().__init__()
        from timm.layers.drop import DropPath  # timm takes a while to import

        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.attention = EfficientAttention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.ffn = MixFFN(channels)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, cells: Tensor, size: tuple[int, int]) -> Tensor:
        """``(N, H * W, channels)`` and ``(H, W)`` -> the same shape."""
        cells = cells + self.drop_path(self.attention(self.norm1(cells), size))
        out: Tensor = cells + self.drop_path(self.ffn(self.norm2(cells), size))
        return out


class PatchEmbedding(nn.Module):
    """Overlapping windows of a map become cells (section 3.1, "Overlapped Patch Merging")."""

    def __init__(self, in_channels: int, channels: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """``(N, in_channels, H, W)`` -> cells ``(N, h * w, channels)`` and ``(h, w)``."""
        x = self.conv(x)
        return self.norm(_as_cells(x)), (x.shape[-2], x.shape[-1])


class Stage(nn.Module):
    """Patches, blocks and a norm: one map of the encoder."""

    def __init__(
        self, index: int, in_channels: int, channels: int, drop_paths: list[float], *, eps: float
    ) -> None:
        super().__init__()
        kernel, stride = (7, 4) if index == 0 else (3, 2)
        self.embed = PatchEmbedding(in_channels, channels, kernel=kernel, stride=stride)
        self.blocks = nn.ModuleList(
            Block(channels, _HEADS[index], _REDUCTIONS[index], drop_path=rate, eps=eps)
            for rate in drop_paths
        )
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, channels, h, w)``."""
        cells, size = self.embed(x)
        for block in self.blocks:
            cells = block(cells, size)
        return _as_map(self.norm(cells), size).contiguous()


class MixTransformer(nn.Module):
    """Four stages of strides 4, 8, 16 and 32.

    Args:
        size: Channels and blocks.
        in_channels: Bands of the image.
        maps: How many of the stages there are.
        drop_path_rate: Probability of leaving out the last block for an image; it grows from 0.
        norm_eps: Epsilon of the norms of blocks and maps.

    Attributes:
        features: What the maps are, finest first.
    """

    normalization = IMAGENET

    def __init__(
        self,
        size: MiTSize,
        in_channels: int,
        *,
        maps: int = 4,
        drop_path_rate: float = 0.1,
        norm_eps: float = _EPS,
    ) -> None:
        super().__init__()
        total = sum(size.blocks)
        rates = [drop_path_rate * i / max(total - 1, 1) for i in range(total)]
        before = [in_channels, *size.channels]
        self.stages = nn.ModuleList(
            Stage(
                i,
                before[i],
                size.channels[i],
                rates[sum(size.blocks[:i]) : sum(size.blocks[: i + 1])],
                eps=norm_eps,
            )
            for i in range(maps)
        )
        self.features = tuple(FeatureSpec(size.channels[i], 4 << i) for i in range(maps))
        self.apply(_init)

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(N, in_channels, H, W)`` -> a map for each of :attr:`features`."""
        maps: list[Tensor] = []
        x = image
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


@torch.no_grad()
def _init(module: nn.Module) -> None:
    """The initialisation of the paper's code: linear layers 0.02, convolutions by their fan-out."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight.shape[2] * module.weight.shape[3] * module.out_channels
        module.weight.normal_(0, math.sqrt(2 * module.groups / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _factory(name: str, size: MiTSize) -> Callable[..., nn.Module]:
    def build(
        in_channels: int = 3,
        pretrained: bool | str = False,
        depth: int | None = None,
        drop_path_rate: float = 0.1,
        norm_eps: float = _EPS,
    ) -> MixTransformer:
        no_weights(name, pretrained)
        return MixTransformer(
            size,
            in_channels,
            maps=maps_wanted(name, len(size.blocks), depth),
            drop_path_rate=share("drop_path_rate", drop_path_rate),
            norm_eps=share("norm_eps", norm_eps),
        )

    return build


for _name, _size in SIZES.items():
    ENCODERS.add(_name, _factory(_name, _size))
