"""Boundary F1 pixel by pixel; calibration error and temperature against their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import segzoo
from segzoo.training.boundary_f1 import boundary_f1, tolerance_of

VOID = 255


def by_hand(predicted, target, valid, classes):
    """Csurka et al., 2013, for one image, with loops."""
    height, width = target.shape
    reach = tolerance_of(height, width)

    def edge(labels):
        found = np.zeros((height, width), dtype=bool)
        for y, x in itertools.product(range(height), range(width)):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width and valid[y, x] and valid[v, u]:
                    found[y, x] |= labels[y, x] != labels[v, u]
        return found

    def near(edges, y, x):
        return edges[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1].any()

    result = []
    for c in range(classes):
        said, true = (edge(labels) & (labels == c) for labels in (predicted, target))
        if not said.any() and not true.any():
            result.append(math.nan)
            continue
        shares = []
        for ours, theirs in ((said, true), (true, said)):
            cells = np.argwhere(ours)
            met = sum(near(theirs, y, x) for y, x in cells)
            shares.append(met / len(cells) if len(cells) else 0.0)
        total = sum(shares)
        result.append(2 * shares[0] * shares[1] / total if total else 0.0)
    return result


def blocks(classes, size, seed):
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, classes, (2, -(-size[0] // 5), -(-size[1] // 5)), generator=generator)
    return small.repeat_interleave(5, 1).repeat_interleave(5, 2)[:, : size[0], : size[1]]


@pytest.mark.parametrize("classes", [2, 14, 15, 31, 70])
def test_boundary_f1_is_its_definition(classes):
    size = (23, 31)
    target = blocks(classes, size, 0)
    predicted = target.roll(1, 2).clone()
    predicted[:, :9] = blocks(classes, size, 1)[:, :9]
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[0, 5:12, 7:15] = False
    found = boundary_f1(predicted, target, valid, classes)
    for i in range(2):
        expected = by_hand(predicted[i].numpy(), target[i].numpy(), valid[i].numpy(), classes)
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-14)


def test_the_tolerance_decides_and_void_has_no_boundary():
    target = torch.zeros(1, 300, 400).long()  # tolerance 4
    target[:, :, 200:] = 1
    valid = torch.ones_like(target, dtype=torch.bool)
    for shift, expected in ((0, 1.0), (4, 1.0), (5, 0.0)):
        found = boundary_f1(target.roll(shift, 2).clone(), target, valid, 2)
        if shift:  # what was rolled round the edge is a boundary of its own
            predicted = torch.zeros_like(target)
            predicted[:, :, 200 + shift :] = 1
            found = boundary_f1(predicted, target, valid, 2)
        assert found.tolist() == [[expected, expected]]
    valid[:, :, 150:250] = False
    assert boundary_f1(target, target, valid, 2).isnan().all()


def test_the_mean_is_over_images_that_have_a_boundary():
    target = torch.zeros(3, 20, 20).long()
    target[0, :, 10:] = 1
    predicted = target.clone()
    predicted[1, :, 10:] = 1  # a boundary that is not there
    meter = segzoo.ScoreMeter(3, calibration=False)
    meter.update(predicted, target)
    scores = meter.compute()
    assert scores.boundary_f1_by_class == (0.5, 0.5, None)
    assert scores.boundary_f1 == 0.5
    assert segzoo.ScoreMeter(2, boundaries=False).compute().boundary_f1 is None


def calibrated(temperature, classes=5, images=4, size=(50, 60), void=True):
    """Logits whose probabilities are true, then made too sure by a factor."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, classes, *size, generator=generator, dtype=torch.float64)
    flat = logits.softmax(dim=1).permute(0, 2, 3, 1).reshape(-1, classes)
    target = flat.multinomial(1, generator=generator).view(images, *size)
    if void:
        target[:, :5] = VOID
    return logits * temperature, target


def score(logits, target):
    meter = segzoo.ScoreMeter(max(logits.shape[1], 2), ignore_index=VOID, boundaries=False)
    meter.update(logits, target)
    return meter.compute()


def ece_by_hand(logits, target):
    """Guo et al., 2017, equation 3."""
    counted = (target != VOID).numpy()
    confidence, predicted = (part.numpy() for part in logits.softmax(dim=1).max(dim=1))
    confidence, right = confidence[counted], (predicted == target.numpy())[counted]
    total = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_ece_and_temperature_are_their_definitions(temperature):
    logits, target = calibrated(temperature)
    scores = score(logits, target)
    assert scores.ece == pytest.approx(ece_by_hand(logits, target), abs=1e-8)
    # The temperature that was put in, as far as 4096 pixels can tell.
    assert scores.temperature == pytest.approx(temperature, rel=0.1)
    better = score(logits / scores.temperature, target)
    assert better.likelihood <= scores.likelihood
    assert better.ece < 0.02
    if temperature != 1:
        assert scores.ece > 0.05


def test_the_temperature_is_that_of_least_likelihood():
    logits, target = calibrated(2.0, images=1, size=(20, 30))  # fewer pixels than a sample: all
    found = score(logits, target).temperature
    pixels = logits.permute(0, 2, 3, 1)[target != VOID], target[target != VOID]

    def likelihood(temperature):
        return float(torch.nn.functional.cross_entropy(pixels[0] / temperature, pixels[1]))

    tried = np.geomspace(0.5, 8, 2000)
    best = tried[np.argmin([likelihood(t) for t in tried])]
    assert found == pytest.approx(best, rel=0.01)
    assert score(logits, target).likelihood == pytest.approx(likelihood(1.0), rel=1e-6)


def test_reliability_counts_every_pixel():
    logits, target = calibrated(1.0)
    scores = score(logits, target)
    counts, right, confidence = zip(*scores.reliability, strict=True)
    assert sum(counts) == scores.pixels == int((target != VOID).sum())
    assert sum(right) == sum(scores.right_pixels)
    for m, (count, mean) in enumerate(zip(counts, confidence, strict=True)):
        assert not count or m / 15 <= mean <= (m + 1) / 15 + 1e-9


def test_what_has_no_temperature():
    logits, target = calibrated(1.0)
    right = 100.0 * torch.nn.functional.one_hot(target.masked_fill(target == VOID, 0), 5).permute(
        0, 3, 1, 2
    )
    assert score(right, target).temperature is None  # the surer the better, without end
    assert score(logits, torch.full_like(target, VOID)).ece is None
    meter = segzoo.ScoreMeter(5, ignore_index=VOID)
    meter.update(logits.argmax(dim=1), target)  # classes only
    assert meter.compute().ece is None
    assert meter.compute().temperature is None
