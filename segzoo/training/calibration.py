"""Whether a model is as sure as it is right: calibration error, and the temperature that helps.

Guo et al., "On Calibration of Modern Neural Networks", 2017: section 2 has the expected
calibration error, with 15 bins of the top class's probability; section 4.2 has the temperature, by
which all logits are divided so that the negative log-likelihood is least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BINS = 15
#: Probabilities are added up as whole numbers of this unit: the order then changes nothing.
_UNIT = 2.0**30
#: Temperatures at which the likelihood is computed, four to an octave.
_TEMPERATURES = tuple(2.0 ** (i / 4) for i in range(-12, 17))
#: Numbers that :func:`likelihoods` gives.
SUMS = 1 + len(_TEMPERATURES)
#: Pixels of an image that tell of its likelihood.
_SAMPLE = 1024


def bins_of(confidence: Tensor, right: Tensor, valid: Tensor) -> Tensor:
    """Pixels, right ones and their summed confidence for each bin of confidence.

    Args:
        confidence: ``(H, W)``, the probability of each pixel's top class.
        right: ``(H, W)``, whether that is its true class.
        valid: ``(H, W)``, False where void.

    Returns:
        ``(3, BINS)``, int64; confidence in units of :data:`_UNIT`.
    """
    place = ((confidence * BINS).ceil().int() - 1).clamp(0, BINS - 1)
    place = torch.where(valid, place, BINS).flatten()
    pixels = (
        (2 * place + right.flatten()).bincount(minlength=2 * BINS + 2)[: 2 * BINS].view(BINS, 2)
    )
    units = (confidence.double() * _UNIT).round().flatten()
    sums = place.bincount(units, minlength=BINS + 1)[:BINS].long()
    return torch.stack([pixels.sum(dim=1), pixels[:, 1], sums]).cpu()


def expected_error(bins: Tensor) -> float | None:
    """The expected calibration error of bins, 0 to 1; None where there are no pixels."""
    total = int(bins[0].sum())
    if not total:
        return None
    right, confidence = bins[1].tolist(), bins[2].tolist()
    gaps = [abs(r - c / _UNIT) for r, c in zip(right, confidence, strict=True)]
    return math.fsum(gaps) / total


def reliability(bins: Tensor) -> tuple[tuple[int, int, float], ...]:
    """Pixels, right pixels and mean confidence (0 where there are none) of each bin."""
    pixels, right, confidence = bins.tolist()
    return tuple(
        (p, r, c / _UNIT / p if p else 0.0)
        for p, r, c in zip(pixels, right, confidence, strict=True)
    )


def likelihoods(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The negative log-likelihood of a sample of an image's pixels at each temperature.

    Args:
        logits: ``(C, H, W)``, C of 2 or more.
        target: ``(H, W)``, the true classes.
        valid: ``(H, W)``, False where void.

    Returns:
        ``(SUMS,)``, float64: how many pixels, then the sums over them.
    """
    chosen = valid.flatten().nonzero()[:, 0]
    if len(chosen) > _SAMPLE:
        # Multiples of the golden ratio lie evenly, and follow no column or row.
        steps = torch.arange(1, _SAMPLE + 1, dtype=torch.float64) * 0.6180339887498949 % 1.0
        chosen = chosen[(steps * len(chosen)).long().to(chosen.device)]
    wide = logits.flatten(1)[:, chosen].double()
    true = wide.gather(0, target.flatten()[chosen][None])[0]
    sums = [
        ((wide / temperature).logsumexp(dim=0) - true / temperature).sum()
        for temperature in _TEMPERATURES
    ]
    return torch.stack([true.new_tensor(len(true)), *sums]).cpu()


def best_temperature(sums: Sequence[float]) -> float | None:
    """The temperature of least negative log-likelihood, from the sums of :func:`likelihoods`.

    Between the temperatures that were tried it is where a parabola through the three lowest sums
    is lowest. None where there is nothing to tell from, or where it lies beyond those tried.
    """
    values = list(sums[1:])
    if not sums[0] or not all(map(math.isfinite, values)):
        return None
    lowest = min(range(len(values)), key=values.__getitem__)
    if lowest in (0, len(values) - 1):
        return None
    left, middle, right = values[lowest - 1 : lowest + 2]
    bend = left - 2 * middle + right
    shift = (left - right) / (2 * bend) if bend > 0 else 0.0
    return float(_TEMPERATURES[lowest] * 2.0 ** (shift / 4))


def mean_likelihood(sums: Sequence[float]) -> float | None:
    """The mean negative log-likelihood of a pixel as the logits are, in nats.

    None where there is nothing to tell from, or where a true class was ruled out by a logit of
    -inf: no number says how wrong that is.
    """
    total = sums[1 + _TEMPERATURES.index(1.0)]
    return total / sums[0] if sums[0] and math.isfinite(total) else None
