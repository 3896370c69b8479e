"""From queries to masks and classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.layers import ChannelNorm2d


class Queries(NamedTuple):
    """What :meth:`segzoo.EoMT.forward_queries` gives.

    Attributes:
        mask_logits: ``(N, queries, h, w)``: of each query the pixels that it claims, before a
            sigmoid. They cover the image, whatever its size.
        class_logits: ``(N, queries, classes + 1)``, before a softmax; the last is "nothing".
        layers: The same two in front of each query block, first block first, without the final
            ones above; empty where they were not needed. In training mode one for each query block.
    """

    mask_logits: Tensor
    class_logits: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...] = ()


class Upscale(nn.Module):
    """A map doubled: transposed convolution, GELU, depthwise convolution, normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.larger = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.act = nn.GELU()
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = ChannelNorm2d(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, h, w)`` -> ``(N, C, 2h, 2w)``."""
        out: Tensor = self.norm(self.smooth(self.act(self.larger(x))))
        return out


class MaskDecoder(nn.Module):
    """What an EoMT has behind its transformer; the right end of figure 2.

    Args:
        channels: Of the transformer.
        classes: Number of classes; one more logit stands for "nothing".
        layers: How often the map is doubled.
    """

    def __init__(self, channels: int, classes: int, *, layers: int) -> None:
        super().__init__()
        self.upscale = nn.Sequential(*(Upscale(channels) for _ in range(layers)))
        self.mask = nn.Sequential(
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
        )
        self.classify = nn.Linear(channels, classes + 1)

    def forward(self, cells: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The map ``(N, C, h, w)`` and ``(N, Q, C)`` -> logits of masks and of classes.

        Returns:
            ``(N, Q, h', w')``, larger by ``2 ** layers``, and ``(N, Q, classes + 1)``.
        """
        kernels = self.mask(queries)
        masks = torch.einsum("bqc, bchw -> bqhw", kernels, self.upscale(cells))
        return masks, self.classify(queries)


def allowed_cells(mask_logits: Tensor, size: tuple[int, int], probability: float) -> Tensor | None:
    """The cells that each query may attend to: those of its mask, with some probability.

    Args:
        mask_logits: ``(N, Q, h', w')``.
        size: ``(h, w)`` of the transformer's map.
        probability: That a query keeps to its mask; else it sees all cells.

    Returns:
        ``(N, Q, h * w)``, bool, or None where all queries see all cells.
    """
    if probability == 0:
        return None
    allowed = F.interpolate(mask_logits, size=size, mode="bilinear").flatten(2) > 0
    if probability < 1:
        free = torch.rand(allowed.shape[:2], device=allowed.device) > probability
        allowed = allowed | free[..., None]
    return allowed


def of_image(mask_logits: Tensor, covered: tuple[int, int], shown: tuple[int, int]) -> Tensor:
    """Masks that cover the image alone, of masks that go beyond it below and on the right.

    Args:
        mask_logits: ``(N, Q, h, w)``.
        covered: ``(H, W)`` in pixels, all that they cover.
        shown: ``(H, W)`` of the image, which is no larger.

    Returns:
        The same where they are equal; else read between the cells, in cells of nearly the same
        size.
    """
    if covered == shown:
        return mask_logits
    # Half precision knows places between 128 and 256 cells to one cell at best.
    exact = torch.promote_types(mask_logits.dtype, torch.float32)
    places = []
    for cells, total, size in zip(mask_logits.shape[-2:], covered, shown, strict=True):
        count = max(round(cells * size / total), 1)
        centres = torch.arange(count, device=mask_logits.device, dtype=exact) + 0.5
        places.append(centres * (2 * size / (count * total)) - 1)
    rows, columns = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack((columns, rows), dim=-1).expand(mask_logits.shape[0], -1, -1, -1)
    found = F.grid_sample(mask_logits.to(exact), grid, padding_mode="border", align_corners=False)
    return found.to(mask_logits.dtype)
