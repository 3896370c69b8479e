"""Scores against numpy and torchmetrics, over voids, absent classes, ranks and images that repeat."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torchmetrics.classification import MulticlassConfusionMatrix

import segzoo
from segzoo.errors import ArgumentError, InputError

VOID = 255
PLAIN = {"boundaries": False, "calibration": False}


def pooled(predicted, target, classes, void=VOID):
    """The whole truth, by numpy: one confusion matrix of all pixels, IoU of the classes in it."""
    counted = target != void
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (target[counted], predicted[counted]), 1)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    iou = np.full(classes, np.nan)
    np.divide(np.diag(matrix), union, out=iou, where=union > 0)
    return matrix, iou


def score(predicted, target, classes, **options):
    meter = segzoo.ScoreMeter(classes, ignore_index=VOID, **options)
    meter.update(torch.as_tensor(predicted), torch.as_tensor(target))
    return meter.compute()


def scene(images=5, classes=4, size=(12, 17), seed=0):
    """Masks that are partly right, with void and a class that is never there."""
    generator = np.random.default_rng(seed)
    target = generator.integers(0, classes - 1, (images, *size))
    wrong = generator.random(target.shape) < 0.3
    predicted = np.where(wrong, generator.integers(0, classes - 1, target.shape), target)
    target[generator.random(target.shape) < 0.15] = VOID
    return predicted, target


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(2, 5),
    data=st.data(),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
)
def test_the_matrix_is_numpys_and_torchmetrics(classes, data, shape):
    labels = st.integers(0, classes - 1)
    predicted = data.draw(arrays.arrays(np.int64, shape, elements=labels))
    target = data.draw(arrays.arrays(np.int64, shape, elements=labels | st.just(VOID)))
    found = score(predicted, target, classes, boundaries=False)
    matrix, iou = pooled(predicted, target, classes)
    assert found.confusion.tolist() == matrix.tolist()
    oracle = MulticlassConfusionMatrix(classes, ignore_index=VOID)
    assert torch.equal(found.confusion, oracle(torch.tensor(predicted), torch.tensor(target)))
    np.testing.assert_array_equal([math.nan if v is None else v for v in found.iou], iou)
    if np.isnan(iou).all():
        assert found.miou is None
        assert found.pixel_accuracy is None
    else:
        assert found.miou == pytest.approx(np.nanmean(iou), rel=1e-15)
        assert found.pixel_accuracy == np.trace(matrix) / matrix.sum()


def test_every_score_of_a_class_is_its_definition():
    predicted, target = scene()
    predicted[0, :2] = 3  # never there, sometimes predicted
    scores = score(predicted, target, 5)
    counted = target != VOID
    for c in range(5):
        hit, true, said = (
            np.sum(where & counted)
            for where in ((predicted == c) & (target == c), target == c, predicted == c)
        )
        assert scores.iou[c] == (hit / (true + said - hit) if true + said else None)
        assert scores.dice[c] == (2 * hit / (true + said) if true + said else None)
        assert scores.precision[c] == (hit / said if said else None)
        assert scores.recall[c] == (hit / true if true else None)
    assert scores.iou[3] == 0  # wrong wherever it was said
    assert scores.recall[3] is None
    assert scores.iou[4] is None  # neither there nor predicted
    assert scores.miou == np.mean(scores.iou[:4])
    assert scores.mean_accuracy == np.mean(scores.recall[:3])
    assert scores.mean_dice == np.mean(scores.dice[:4])


def test_void_is_no_class_and_an_absent_class_is_no_score():
    """Where others count void as one more class, or an absent class as 0 or 1."""
    predicted, target = scene()
    scores = score(predicted, target, 4)
    _, iou = pooled(predicted, target, 4)
    assert scores.miou == pytest.approx(np.nanmean(iou))
    with_void, _ = pooled(predicted, np.where(target == VOID, 4, target), 5)
    union = with_void.sum(0) + with_void.sum(1) - np.diag(with_void)
    wrong = np.diag(with_void)[:3] / union[:3]
    assert abs(wrong.mean() - scores.miou) > 0.02
    for absent in (0.0, 1.0):
        assert abs(np.nan_to_num(iou, nan=absent).mean() - scores.miou) > 0.02


def test_pixels_are_pooled_and_not_the_means_of_images():
    predicted, target = scene(images=4)
    target[1:] = 0
    predicted[1:] = 0
    predicted[1, 0, 0] = 1  # one pixel of a class that the image lacks
    scores = score(predicted, target, 4)
    images = [np.nanmean(pooled(p, t, 4)[1]) for p, t in zip(predicted, target, strict=True)]
    assert scores.miou == pytest.approx(np.nanmean(pooled(predicted, target, 4)[1]))
    assert abs(np.mean(images) - scores.miou) > 0.02


def test_an_image_that_two_ranks_have_counts_once():
    """A sampler that pads: 101 images on 2 ranks, the first of them twice."""
    predicted, target = scene(images=101, size=(6, 7))
    target[0], predicted[0] = 0, 1
    order = [*range(101), 0]
    meters = []
    for rank in range(2):
        meter = segzoo.ScoreMeter(4, ignore_index=VOID)
        for i in order[rank::2]:
            meter.update(
                torch.tensor(predicted[i : i + 1]), torch.tensor(target[i : i + 1]), [f"image {i}"]
            )
        meters.append(segzoo.ScoreMeter.from_state(meter.state()))
    whole = segzoo.ScoreMeter(4, ignore_index=VOID)
    for meter in meters:
        whole.merge(meter)
    assert len(whole) == 101
    expected = score(predicted, target, 4)
    assert whole.compute().counts == expected.counts
    twice = pooled(predicted[order], target[order], 4)[0]
    assert twice.tolist() != expected.confusion.tolist()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=7, max_size=7), st.permutations(range(7)))
def test_any_split_over_ranks_in_any_order_has_the_same_scores(ranks, order):
    predicted, target = scene(images=7)
    logits = 2.0 * torch.nn.functional.one_hot(torch.tensor(predicted), 4).permute(0, 3, 1, 2)
    names = [f"i{i}" for i in range(7)]
    expected = segzoo.ScoreMeter(4, ignore_index=VOID)
    expected.update(logits, torch.tensor(target), names)
    meters = [segzoo.ScoreMeter(4, ignore_index=VOID) for _ in range(3)]
    for i in order:
        meters[ranks[i]].update(logits[i : i + 1], torch.tensor(target[i : i + 1]), [names[i]])
    whole = segzoo.ScoreMeter(4, ignore_index=VOID)
    for meter in reversed(meters):
        whole.merge(segzoo.ScoreMeter.from_state(meter.state()))
    assert whole.compute() == expected.compute()
    assert whole.image_miou() == expected.image_miou()


def test_a_state_opens_with_weights_only(tmp_path):
    meter = segzoo.ScoreMeter(4, ignore_index=-1)
    empty = segzoo.ScoreMeter.from_state(meter.state())
    assert len(empty) == 0
    assert empty.ignore_index == -1
    predicted, target = scene()
    target[target == VOID] = -1
    meter.update(torch.tensor(predicted), torch.tensor(target), ["ä", "b", "c", "d", "e"])
    meter.update(torch.tensor(predicted), torch.tensor(target))  # these have no names
    torch.save(meter.state(), tmp_path / "state")
    again = segzoo.ScoreMeter.from_state(torch.load(tmp_path / "state", weights_only=True))
    assert again.compute() == meter.compute()
    assert len(again) == 10


def test_scores_survive_json():
    predicted, target = scene()
    meter = segzoo.ScoreMeter(4, ignore_index=VOID)
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 4).permute(0, 3, 1, 2).float()
    meter.update(logits, torch.tensor(target))
    scores = meter.compute(["a", "b", "c", "d"])
    text = json.dumps(scores.to_json(), allow_nan=False)
    assert segzoo.Scores.from_json(json.loads(text)) == scores
    small = scores.to_json(small=True)
    assert small == {
        "images": 5, "miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy,
        "mean_dice": scores.mean_dice, "iou": list(scores.iou),
    }  # fmt: skip
    empty = segzoo.ScoreMeter(2).compute()
    assert segzoo.Scores.from_json(json.loads(json.dumps(empty.to_json()))) == empty
    whole = scores.to_json()
    for wrong in (
        {}, {"counts": 3}, {"counts": [[1]], "images": 1}, {**whole, "counts": [[1, "x"]] * 2},
        {**whole, "counts": [[1, -1], [0, 0]]}, {**whole, "ece": "<b>"}, {**whole, "temperature": [2]},
        {**whole, "class_names": ["a", "b", 3, "d"]}, {**whole, "intervals": {"miou": [0, 1]}},
        {**whole, "intervals": {**whole["intervals"], "miou": [0, "1"]}}, {**whole, "reliability": [[1, 2]]},
        {**whole, "boundary_f1_by_class": ["x"]}, {**whole, "images": None},
    ):  # fmt: skip
        with pytest.raises(ArgumentError):
            segzoo.Scores.from_json(wrong)


def test_the_table_says_it_all():
    meter = segzoo.ScoreMeter(2, ignore_index=VOID)
    meter.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, VOID]]]))
    assert str(meter.compute(["ground", "coin"])).splitlines() == [
        "class     IoU   Dice  precision  recall  boundary F1  pixels",
        "ground  0.500  0.667      1.000   0.500        1.000   66.7%",
        "coin    0.500  0.667      0.500   1.000        1.000   33.3%",
        "mean    0.500  0.667      0.750   0.750        1.000  100.0%",
        "",
        "1 image, 3 pixels, mIoU 0.500, pixel accuracy 0.667",
    ]
    assert "-" in str(segzoo.ScoreMeter(2).compute())


def test_one_logit_is_two_classes():
    logits = torch.tensor([[[[-1.0, 0.5], [2.0, 0.0]]]])
    meter = segzoo.ScoreMeter(2)
    meter.update(logits, torch.tensor([[[0, 1], [1, 0]]]))
    assert meter.compute().counts == ((2, 0), (0, 2))
    two = segzoo.ScoreMeter(2)
    two.update(
        torch.cat([torch.zeros_like(logits), logits], dim=1), torch.tensor([[[0, 1], [1, 0]]])
    )
    assert two.compute() == meter.compute()


def test_void_that_is_a_class_has_no_scores():
    predicted, target = scene()
    target[target == VOID] = 0
    meter = segzoo.ScoreMeter(4, ignore_index=0)
    meter.update(torch.tensor(predicted), torch.tensor(target))
    scores = meter.compute()
    assert scores.true_pixels[0] == 0
    assert scores.iou[0] is None
    assert scores.boundary_f1_by_class[0] is None
    assert scores.intervals.iou[0] is None
    assert scores.miou == np.mean(scores.iou[1:3])
    low, high = scores.intervals.miou
    assert low <= scores.miou <= high


def test_intervals_are_the_quantiles_of_drawn_images():
    predicted, target = scene(images=40, size=(5, 6), seed=3)
    scores = score(predicted, target, 4, **PLAIN)
    generator = np.random.default_rng(7)
    draws = []
    for _ in range(1000):
        drawn = generator.integers(0, 40, 40)
        draws.append(np.nanmean(pooled(predicted[drawn], target[drawn], 4)[1]))
    expected = np.quantile(draws, [0.025, 0.975])
    np.testing.assert_allclose(scores.intervals.miou, expected, atol=0.004)
    assert score(predicted, target, 4, **PLAIN) == scores
    assert scores.intervals.iou[3] is None
    assert score(predicted[:1], target[:1], 4).intervals is None


def test_counting_leaves_the_random_state_alone():
    predicted, target = scene()
    before = torch.random.get_rng_state()
    score(predicted, target, 4)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [
        (torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long(), r"Expected logits \(N, 4, H, W\)"),
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long(), r"or classes \(N, H, W\) as integers"),
        (torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3).long(), "of integers for a prediction"),
        (torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2), "got torch.float32"),
        (torch.full((1, 2, 2), 4), torch.zeros(1, 2, 2).long(), "prediction of a holds 4"),
        (torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 9), "target of a holds 9, which is no class"),
        (torch.zeros(2, 2, 2).long(), torch.zeros(2, 2, 2).long(), "1 names were given for 2 images"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted(predicted, target, message):
    meter = segzoo.ScoreMeter(4, ignore_index=VOID)
    with pytest.raises(InputError, match=message):
        meter.update(predicted, target, ["a"])
    assert len(meter) == 0


def test_names_that_are_used_twice_and_meters_that_differ():
    meter = segzoo.ScoreMeter(3)
    image = torch.zeros(1, 2, 2).long()
    meter.update(image, image, ["a"])
    meter.update(image + 1, image, ["a"])  # the same truth: the same image again
    assert meter.compute().counts[0] == (4, 0, 0)
    with pytest.raises(InputError, match="Two images that differ are called 'a'"):
        meter.update(image, image + 1, ["a"])
    with pytest.raises(ArgumentError, match="classes is 3 here and 2 there"):
        meter.merge(segzoo.ScoreMeter(2))
    with pytest.raises(ArgumentError, match="classes must be between 2"):
        segzoo.ScoreMeter(1)
    with pytest.raises(ArgumentError, match="2 names for 3 classes"):
        meter.compute(["a", "b"])


def test_many_classes_take_little_memory():
    meter = segzoo.ScoreMeter(1000, **PLAIN)
    image = torch.arange(64).view(1, 8, 8)
    for i in range(100):
        meter.update(image, image, [str(i)])
    state = meter.state()
    assert sum(tensor.nbytes for tensor in state.values()) < 200_000
    assert meter.compute().pixels == 6400


def test_logits_that_are_nan_are_refused():
    logits = torch.zeros(2, 3, 4, 4)
    logits[1, 2, 0, 0] = math.nan
    meter = segzoo.ScoreMeter(3, **PLAIN)
    with pytest.raises(InputError, match="logits of b hold NaN"):
        meter.update(logits, torch.zeros(2, 4, 4).long(), ["a", "b"])
    assert len(meter) == 0


def test_a_batch_of_nothing_counts_nothing():
    meter = segzoo.ScoreMeter(3)
    meter.update(torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4).long())
    assert len(meter) == 0


@pytest.mark.parametrize("option", PLAIN)
def test_meters_that_measure_other_things_are_not_merged(option):
    with pytest.raises(ArgumentError, match=f"{option} is True here and False there"):
        segzoo.ScoreMeter(3).merge(segzoo.ScoreMeter(3, **{option: False}))


def test_names_that_are_no_utf8_come_along():
    meter = segzoo.ScoreMeter(2)
    meter.update(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4).long(), ["a\udcff"])
    assert list(segzoo.ScoreMeter.from_state(meter.state()).image_miou()) == ["a\udcff"]


@pytest.mark.parametrize(
    "change",
    [
        {"boundary_f1_by_class": [0.5]},
        {"intervals": {"miou": [0, 1], "pixel_accuracy": [0, 1], "iou": [[0, 1]]}},
        {"intervals": {"miou": None, "pixel_accuracy": [0, 1], "iou": [None, None, None]}},
    ],
)
def test_scores_of_another_number_of_classes_are_refused(change):
    meter = segzoo.ScoreMeter(3)
    meter.update(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4).long())
    with pytest.raises(ArgumentError):
        segzoo.Scores.from_json({**meter.compute().to_json(), **change})


@pytest.mark.parametrize("classes", [2, 3])
def test_the_largest_logit_is_a_finite_number(classes):
    logits = torch.zeros(2, classes if classes > 2 else 1, 4, 4)
    target = torch.zeros(2, 4, 4).long()
    meter = segzoo.ScoreMeter(classes)
    logits[1, -1, 0, 0] = math.inf
    with pytest.raises(InputError, match=r"logits of b hold infinity.*float16 ends at 65504"):
        meter.update(logits, target, ["a", "b"])
    if classes > 2:
        logits[1, :, 0, 0] = -math.inf
        with pytest.raises(InputError, match="logits of b hold infinity"):
            meter.update(logits, target, ["a", "b"])
    assert len(meter) == 0


def test_a_class_may_be_ruled_out():
    """By -inf: its probability is 0, and where it is the true one no number says how wrong."""
    logits, target = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).long()
    logits[0, 0] = 1.0
    logits[0, 2] = -math.inf
    two = segzoo.ScoreMeter(2)
    two.update(logits[:, :2], target)
    meter = segzoo.ScoreMeter(3)
    meter.update(logits, target)
    assert meter.compute().likelihood == pytest.approx(two.compute().likelihood)
    assert meter.compute().ece == pytest.approx(two.compute().ece)
    target[0, 0, 0] = 2
    meter.update(logits, target)
    scores = meter.compute()
    assert (scores.likelihood, scores.temperature) == (None, None)
    assert segzoo.Scores.from_json(scores.to_json()) == scores
