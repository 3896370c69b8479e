"""From masks and classes of queries to scores of each pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.full_precision import full_precision
from .enlarged import strips

#: A score below this counts as this: half precision has it too, and its logarithm is finite.
_SMALLEST = 1e-7
#: Values of enlarged masks that are there at a time where nothing is learned: a megabyte, so that
#: they stay near the processor; other devices want more to do at once.
_AT_A_TIME, _ON_DEVICES = 1 << 18, 1 << 26


class PixelScores(nn.Module):
    """What the queries say of each pixel, as logits.

    The score of a class is the sum over queries of its probability times that of the pixel (Cheng
    et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", 2021,
    section 3.4). Scores are positive and do not sum to one; their logarithms do for logits: the
    largest is the same, softmax divides by the sum, and cross-entropy is minus the logarithm of the
    share. With one class there is no other to compare with: the probability is that at least one
    query claims the pixel, as if they decided independently.

    Args:
        classes: How many there are.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(
        self,
        mask_logits: Tensor,
        class_logits: Tensor,
        covered: tuple[int, int],
        size: tuple[int, int],
    ) -> Tensor:
        """Logits of the image's pixels.

        Args:
            mask_logits: ``(N, Q, h, w)``.
            class_logits: ``(N, Q, classes + 1)``, the last of which is "nothing".
            covered: ``(H, W)`` in pixels that the masks cover, no less than the image.
            size: ``(H, W)`` of the image, which begins where they do.

        Returns:
            ``(N, classes, *size)``.
        """
        shares = class_logits.softmax(dim=-1)[..., :-1].transpose(1, 2).contiguous()
        cells = mask_logits.shape[-2:]
        fixed = all(type(side) is int for side in (*covered, *size))  # no graph for all sizes
        here = fixed and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if here and all(side % count == 0 for side, count in zip(covered, cells, strict=True)):
            factors = (covered[0] // cells[0], covered[1] // cells[1])
            with full_precision(mask_logits.device):
                return self._in_strips(mask_logits, shares, factors, size)
        masks = F.interpolate(mask_logits, size=covered, mode="bilinear", align_corners=False)
        if not fixed or covered != size:
            # What goes beyond the image is cut off: slices would leave torch.export with a guard.
            masks = F.pad(masks, (0, size[1] - covered[1], 0, size[0] - covered[0]))
        return self._scores(masks, shares)

    def _in_strips(
        self, mask_logits: Tensor, shares: Tensor, factors: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        """The same strip by strip, in single precision where the masks have less."""
        count, queries, height, width = mask_logits.shape
        dtype, (up, across) = mask_logits.dtype, factors
        most = _AT_A_TIME if mask_logits.device.type == "cpu" else _ON_DEVICES
        rows = min(max(most // (queries * up * across * width), 1), height)
        rows_shown = -(-size[0] // up)
        out = mask_logits.new_empty(count, self.classes, rows_shown * up, width * across)
        exact = torch.promote_types(dtype, torch.float32)
        # Differences of infinite neighbours would be NaN; the sigmoid of both is the same.
        finite = torch.finfo(exact).max / 4
        wide = mask_logits.to(exact).clamp(-finite, finite)
        for masks, share, found in zip(wide, shares.to(exact), out, strict=True):
            # Columns by cell and phase, as the strips have them.
            columns = found.unflatten(-1, (width, across)).transpose(-1, -2)
            for first, strip in strips(masks, factors, rows=rows):
                if first >= rows_shown:
                    break
                place = columns[:, first * up : (first + rows) * up]
                place.copy_(self._scores(strip[None, :, : place.shape[1]], share[None])[0])
        return out[..., : size[0], : size[1]].contiguous()

    def _scores(self, masks: Tensor, shares: Tensor) -> Tensor:
        """Logits of masks ``(N, Q, ...)`` of their own and shares ``(N, classes, Q)``."""
        # In place: there are many values, and new memory for them takes longer.
        masks = masks.sigmoid_()
        if self.classes == 1:
            logits = _logit_of_any(masks.flatten(2) * shares.transpose(1, 2))
        else:
            logits = (shares @ masks.flatten(2)).clamp_min_(_SMALLEST).log_()
        out: Tensor = logits.unflatten(-1, masks.shape[2:])
        return out


def _logit_of_any(probabilities: Tensor) -> Tensor:
    """The logit of at least one of ``(N, Q, L)`` being so, ``(N, 1, L)``."""
    most = 1 - torch.finfo(probabilities.dtype).eps
    none = torch.log1p(-probabilities.clamp_max(most)).sum(dim=1, keepdim=True)
    some = (-torch.expm1(none)).clamp_min(_SMALLEST)
    return some.log() - none
