"""From masks and classes of queries to scores of each pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: A score below this counts as this: half precision has it too, and its logarithm is finite.
_SMALLEST = 1e-7
#: Values of enlarged masks that are there at a time where nothing is learned: a few megabytes, so
#: that they stay near the processor.
_AT_A_TIME = 1 << 20


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
        shares = class_logits.softmax(dim=-1)[..., :-1]
        rows, cells = mask_logits.shape[-2], covered[0]
        fixed = all(type(side) is int for side in (*covered, *size))  # no graph for all sizes
        here = fixed and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if here and cells % rows == 0:
            return self._in_strips(mask_logits, shares, covered, size)
        masks = F.interpolate(mask_logits, size=covered, mode="bilinear", align_corners=False)
        if not fixed or covered != size:
            # What goes beyond the image is cut off: slices would leave torch.export with a guard.
            masks = F.pad(masks, (0, size[1] - covered[1], 0, size[0] - covered[0]))
        return self._scores(masks, shares)

    def _in_strips(
        self, mask_logits: Tensor, shares: Tensor, covered: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        """The same strip by strip: enlarged masks of all queries are many times the image.

        A strip is enlarged with one row more on each side, as bilinear interpolation reads it.
        """
        count, queries, rows = mask_logits.shape[:3]
        factor = covered[0] // rows
        step = max(_AT_A_TIME // max(count * queries * factor * covered[1], 1), 1)
        out: Tensor | None = None
        for first in range(0, -(-size[0] // factor), step):
            last = min(first + step, rows)
            above, below = max(first - 1, 0), min(last + 1, rows)
            strip = F.interpolate(
                mask_logits[:, :, above:below],
                size=((below - above) * factor, covered[1]),
                mode="bilinear",
                align_corners=False,
            )
            start, stop = first * factor, min(last * factor, size[0])
            skipped = above * factor
            masks = strip[:, :, start - skipped : stop - skipped, : size[1]]
            found = self._scores(masks, shares)
            if out is None:
                out = found.new_empty(count, self.classes, *size)
            out[:, :, start:stop] = found
        assert out is not None  # an image has rows
        return out

    def _scores(self, masks: Tensor, shares: Tensor) -> Tensor:
        """Logits of masks ``(N, Q, h, w)`` of their own and shares ``(N, Q, classes)``."""
        # In place: there are many values, and new memory for them takes longer.
        masks = masks.sigmoid_()
        if self.classes == 1:
            return _logit_of_any(masks * shares[..., None])
        scores = torch.einsum("bqc, bqhw -> bchw", shares, masks)
        return scores.clamp_min_(_SMALLEST).log_()


def _logit_of_any(probabilities: Tensor) -> Tensor:
    """The logit of at least one of ``(N, Q, H, W)`` being so, ``(N, 1, H, W)``."""
    most = 1 - torch.finfo(probabilities.dtype).eps
    none = torch.log1p(-probabilities.clamp_max(most)).sum(dim=1, keepdim=True)
    some = (-torch.expm1(none)).clamp_min(_SMALLEST)
    return some.log() - none
