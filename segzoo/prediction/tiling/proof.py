"""The direct check of a margin: tiles against the same image in one piece."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..pixel_model import PixelModel
from .axis import Span, plan_axis
from .margin import Margin, UnboundedError

#: Relative to the largest logit: what sums in another order may differ by, in each precision.
ALLOWED = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


@dataclass(frozen=True)
class Proof:
    """What a check found.

    Args:
        ragged: Largest difference of logits at the picture's own remainders, relative to the
            largest logit; None where both sides are multiples of the unit.
        even: The same at multiples of the unit.
        padded: Whether only multiples hold, so that the picture has to be padded.
    """

    ragged: float | None
    even: float
    padded: bool

    def __str__(self) -> str:
        if self.ragged is None:
            return f"tiles differ from one piece by {self.even:.1e} of the largest logit"
        if self.padded:
            return (
                f"tiles differ from one piece by {self.even:.1e} of the largest logit where sides "
                f"are padded to a multiple of the stride, and by {self.ragged:.1e} where not"
            )
        return (
            f"tiles differ from one piece by {self.ragged:.1e} of the largest logit at ragged "
            f"sizes, by {self.even:.1e} at even ones"
        )


def prove(model: PixelModel, margin: Margin, unit: int, size: tuple[int, int]) -> Proof:
    """Check that tiles with this margin give the logits of the image in one piece.

    Each axis is checked by itself, on a random image that is long along it: first cut off behind,
    then before, as tiles are. Columns may be cut whatever the rows are and the other way round, so
    a tile that is cut on four sides is right where each cut is. The image's sides leave the
    remainders that the picture's sides leave: maps are rounded by those.

    Args:
        model: What is checked.
        margin: Multiples of ``unit``.
        unit: Tiles are cut at its multiples.
        size: Height and width of the picture.

    Returns:
        The differences, and whether the picture has to be padded to multiples of the unit.

    Raises:
        UnboundedError: Not even multiples hold.
    """
    allowed = ALLOWED.get(model.dtype, 2e-5)
    even = _differences(model, margin, unit, (0, 0))
    if even > allowed:
        raise UnboundedError(
            f"tiles of {model.name} with margins {margin} differ from one piece by {even:.1e} of "
            "the largest logit: something in it depends on the size of the picture, such as "
            "resizing with align_corners=True"
        )
    remainders = (size[0] % unit, size[1] % unit)
    if remainders == (0, 0):
        return Proof(None, even, padded=False)
    ragged = _differences(model, margin, unit, remainders)
    return Proof(ragged, even, padded=ragged > allowed)


def _differences(
    model: PixelModel, margin: Margin, unit: int, remainders: tuple[int, int]
) -> float:
    generator = torch.Generator().manual_seed(0)
    found = 0.0
    sides = ((margin.top, margin.bottom), (margin.left, margin.right))
    for axis, (before, after) in enumerate(sides):
        length = before + after + 3 * unit + remainders[axis]
        thin = -(-max(2 * unit, model.minimum) // unit) * unit + remainders[1 - axis]
        size = (length, thin) if axis == 0 else (thin, length)
        image = torch.randn(1, model.source.in_channels, *size, generator=generator)
        image = image.to(model.device, model.dtype)
        spans = plan_axis(length, before + after + 2 * unit, before, after, unit)
        found = max(found, largest_difference(model, image, spans, axis))
    return found


def largest_difference(
    model: PixelModel, image: Tensor, spans: tuple[Span, ...], axis: int
) -> float:
    """Between the logits of spans along an axis and of the image whole, relative to the largest."""
    whole = model.logits(image)
    dim = axis + 2
    worst = 0.0
    for span in spans:
        part = model.logits(image.narrow(dim, span.first, span.last - span.first).contiguous())
        kept = part.narrow(dim, span.kept.start, span.stop - span.start)
        expected = whole.narrow(dim, span.start, span.stop - span.start)
        difference = float((kept - expected).abs().max())
        worst = max(worst, math.inf if math.isnan(difference) else difference)
    return worst / max(float(whole.abs().max()), torch.finfo(torch.float32).tiny)
