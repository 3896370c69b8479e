"""From queries to masks and classes, and from those to the classes of pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.layers import ChannelNorm2d

#: A score below this counts as this: half precision has it too, and its logarithm is finite.
_SMALLEST = 1e-7


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
    places = []
    for cells, total, size in zip(mask_logits.shape[-2:], covered, shown, strict=True):
        count = max(round(cells * size / total), 1)
        centres = torch.arange(count, device=mask_logits.device, dtype=mask_logits.dtype) + 0.5
        places.append(centres * (2 * size / (count * total)) - 1)
    rows, columns = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack((columns, rows), dim=-1).expand(mask_logits.shape[0], -1, -1, -1)
    return F.grid_sample(mask_logits, grid, padding_mode="border", align_corners=False)


def class_logits_of_pixels(
    mask_logits: Tensor,
    class_logits: Tensor,
    classes: int,
    covered: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """What the queries say of each pixel.

    The score of a class is the sum over queries of its probability times that of the pixel (Cheng
    et al., 2021, section 3.4). Scores are positive and do not sum to one; their logarithms do for
    logits: the largest is the same, softmax divides by the sum, and cross-entropy is minus the
    logarithm of the share. With one class there is no other to compare with: the probability is
    that at least one query claims the pixel, as if they decided independently.

    Args:
        mask_logits: ``(N, Q, h, w)``.
        class_logits: ``(N, Q, classes + 1)``, the last of which is "nothing".
        classes: How many there are.
        covered: ``(H, W)`` in pixels that the masks cover.
        size: ``(H, W)`` of the image, which begins where they do.

    Returns:
        ``(N, classes, *size)``.
    """
    masks = F.interpolate(mask_logits, size=covered, mode="bilinear", align_corners=False)
    known = all(type(side) is int for side in (*covered, *size))  # unlike in a graph for all sizes
    if not known or covered != size:
        # What goes beyond the image is cut off: slices would leave torch.export with a guard.
        masks = F.pad(masks, (0, size[1] - covered[1], 0, size[0] - covered[0]))
    # In place, here and below: there are many values, and new memory for them takes longer.
    masks = masks.sigmoid_()
    shares = class_logits.softmax(dim=-1)[..., :-1]
    if classes == 1:
        return _logit_of_any(masks * shares[..., None])
    scores = torch.einsum("bqc, bqhw -> bchw", shares, masks)
    return scores.clamp_min_(_SMALLEST).log_()


def _logit_of_any(probabilities: Tensor) -> Tensor:
    """The logit of at least one of ``(N, Q, H, W)`` being so, ``(N, 1, H, W)``."""
    most = 1 - torch.finfo(probabilities.dtype).eps
    none = torch.log1p(-probabilities.clamp_max(most)).sum(dim=1, keepdim=True)
    some = (-torch.expm1(none)).clamp_min(_SMALLEST)
    return some.log() - none
