"""How far a model looks: found by NaN, which spoils every logit that depends on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import ArgumentError, InputError
from ..pixel_model import PixelModel

#: Lengths of the probe. Only models that reach the end of one are tried with the next.
_LENGTHS = (2048, 8192)


@dataclass(frozen=True)
class Margin:
    """Pixels beyond a core that its logits depend on.

    Args:
        top: Above the core.
        bottom: Below it.
        left: Left of it.
        right: Right of it.
    """

    top: int
    bottom: int
    left: int
    right: int

    def to_unit(self, unit: int) -> Margin:
        """The next multiples of ``unit``, at which tiles are cut."""
        return Margin(*(-(-value // unit) * unit for value in vars(self).values()))

    def symmetric(self, *, square: bool) -> Margin:
        """The same on opposite sides, or on all: for views that are flipped, or turned."""
        tall, wide = max(self.top, self.bottom), max(self.left, self.right)
        if square:
            tall = wide = max(tall, wide)
        return Margin(tall, tall, wide, wide)

    def __str__(self) -> str:
        return f"{self.top}/{self.bottom} above/below, {self.left}/{self.right} left/right"


class UnboundedError(ArgumentError):
    """A model whose logits depend on the whole picture, or that cannot be shown not to."""


def probe_margin(model: PixelModel, unit: int) -> Margin:
    """Find how far the logits of a model depend on the picture, in each direction.

    Everything on one side of a cut through a long, thin image is NaN. NaN goes through sums,
    products, maxima and activations, so the logits that become NaN are those that depend on that
    side. Some fused kernels hide NaN (their maximum of NaN and 0 is 0), so random images that are
    the same on one side only are compared, too. All of it is one batch: an axis takes one forward
    pass, or two where the model looks far.

    The result is a claim: :func:`segzoo.prediction.tiling.proof.prove` checks it.

    Args:
        model: What to probe.
        unit: Cuts lie at multiples of it.

    Raises:
        UnboundedError: The far end is spoilt: a logit depends on the whole width or height.
        InputError: The model gives NaN for an ordinary image.
    """
    if model.fixed_size is not None:
        height, width = model.fixed_size
        raise UnboundedError(
            f"{model.name} takes images of {height}x{width} only and resizes all others, so each "
            "logit depends on the whole picture"
        )
    left, right = _probe(model, unit, across=True)
    top, bottom = _probe(model, unit, across=False)
    return Margin(top, bottom, left, right)


def _probe(model: PixelModel, unit: int, *, across: bool) -> tuple[int, int]:
    """The margins before and after a core, along one axis."""
    for length in _LENGTHS:
        found = _reach(model, unit, length // unit * unit, across=across)
        if found is not None:
            return found
    raise UnboundedError(
        f"each logit of {model.name} depends on the whole {'width' if across else 'height'} of the "
        f"picture, or on more than {_LENGTHS[-1] // 2} pixels of it (global pooling, as in "
        "squeeze-and-excitation, or attention)"
    )


def _reach(model: PixelModel, unit: int, length: int, *, across: bool) -> tuple[int, int] | None:
    """By NaN and by differences, whichever reaches further; None where the far end is reached."""
    thin = -(-max(2 * unit, model.minimum) // unit) * unit
    cut = length // 2 // unit * unit
    generator = torch.Generator().manual_seed(0)
    shape = (model.source.in_channels, thin, length)
    plain, other = torch.randn(2, *shape, generator=generator)
    images = torch.zeros(5, *shape)
    images[0, ..., :cut] = torch.nan
    images[1, ..., cut:] = torch.nan
    images[2:] = plain
    images[3, ..., :cut] = other[..., :cut]
    images[4, ..., cut:] = other[..., cut:]
    images = images if across else images.transpose(-2, -1)
    logits = model.logits(images.contiguous().to(model.device, model.dtype))
    changed = torch.isnan(logits)
    scale = torch.nan_to_num(logits[2:]).abs().max() * torch.finfo(logits.dtype).eps
    changed[3:] |= ((logits[3:] - logits[2]).abs() > scale).to(changed)
    spoilt = changed.any(dim=1).any(dim=1 if across else 2).cpu()
    before, after = spoilt[0] | spoilt[3], spoilt[1] | spoilt[4]
    if bool(spoilt[2].any()):
        raise InputError(f"{model.name} gives NaN for an ordinary image.")
    if bool(before[-1]) or bool(after[0]):
        return None
    beyond, ahead = before[cut:].nonzero(), after[:cut].nonzero()
    return (
        int(beyond.max()) + 1 if len(beyond) else 0,
        cut - int(ahead.min()) if len(ahead) else 0,
    )
