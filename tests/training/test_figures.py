"""Figures of a training: they are drawn from anything that can happen, and nothing half written stays."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.errors import MissingPackageError, StorageError
from segzoo.training.figures import best_epoch, draw_confusion, draw_curves
from segzoo.training.samples import Sample, draw_sample, pick
from tests.training.trained import HISTORY


def scores(classes, names=None):
    meter = segzoo.ScoreMeter(classes, boundaries=False)
    target = torch.arange(classes - 1).repeat(1, 4, 1)  # the last class is not there
    meter.update((target + (torch.arange(4)[:, None] == 0)) % classes, target)
    return meter.compute(names)


def test_curves(tmp_path):
    nothing = {**HISTORY[0]["val"], "miou": None, "pixel_accuracy": None}
    for i, history in enumerate(
        (HISTORY, HISTORY[:1], [{**row, "epoch": row["epoch"] + 40 * i} for i in range(9) for row in HISTORY],
         [{**HISTORY[0], "val": nothing}])
    ):  # fmt: skip
        with Image.open(draw_curves(tmp_path / f"{i}.png", history)) as image:
            assert image.mode == "RGB"
            assert image.size == (1100, 340)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png", "3.png"]


def test_the_best_epoch_is_the_first_with_the_largest_score():
    def row(epoch, miou):
        return {"epoch": epoch, "val": {"miou": miou}}

    assert best_epoch([row(1, 0.1), row(2, 0.3), row(3, 0.3), row(4, None)]) == 2
    assert best_epoch([row(1, None)]) is None
    assert best_epoch([]) is None


@pytest.mark.parametrize("classes", [2, 12, 40])
def test_a_confusion_matrix(tmp_path, classes):
    names = [f"class ${i}_$ {'long' * i}" for i in range(classes)]
    with Image.open(draw_confusion(tmp_path / "c.png", scores(classes, names))) as image:
        pixels = np.asarray(image)
    blue = (pixels[..., 2] > pixels[..., 0].astype(int) + 60).mean()
    assert 0.005 < blue < 0.5
    assert max(image.size) < 2500


@pytest.mark.parametrize("size", [(30, 40), (20, 90), (90, 20)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_sample(tmp_path, size, kind, bands):
    image = torch.linspace(0, 1, bands * size[0] * size[1]).view(bands, *size)
    image = (image * 255).to(kind) if kind != torch.float32 else image
    target = torch.zeros(size, dtype=torch.long)
    target[: size[0] // 2] = 1
    target[0] = 255
    sample = Sample("a $b$", image, target, target.clamp(max=1).roll(3, 0), None)
    path = draw_sample(tmp_path / "s.png", sample, classes=30, ignore_index=255)
    with Image.open(path) as drawn:
        found = {tuple(color) for _, color in drawn.getcolors(2**24)}
    assert (213, 94, 0) in found  # an error
    assert max(drawn.size) <= 1500


def test_the_best_the_median_and_the_worst():
    assert pick({}) == {}
    assert pick({"a": 0.5}) == {"best": "a"}
    assert pick({"a": 0.5, "b": 0.7}) == {"best": "b", "median": "a"}
    many = {str(i): i / 100 for i in range(101)}
    assert pick(many) == {"best": "100", "median": "50", "worst": "0"}


def test_without_matplotlib_or_a_place_to_write(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="could not be written"):
        draw_curves(tmp_path / "none" / "c.png", HISTORY)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match="matplotlib is needed for this"):
        draw_confusion(tmp_path / "c.png", scores(3))
    assert list(tmp_path.iterdir()) == []


def test_the_matrix_of_very_many_classes_has_a_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("segzoo.training.figures.save_figure", lambda path, figure: figure)
    many = segzoo.Scores(counts=((1, *(0,) * 699), *((0,) * 700,) * 699), images=1)
    figure = draw_confusion(tmp_path / "c.png", many)
    assert 10 < max(figure.get_size_inches()) < 28  # of 100 pixels
