"""Void where a model is not sure: in Python, in tiles, on the command line, and as labels again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.cli import main
from segzoo.errors import ArgumentError

from ..helpers import ready, tiny_unet
from ..model_folders import small


@pytest.mark.parametrize("classes", [1, 3])
def test_void_is_where_no_class_is_that_probable(classes):
    torch.manual_seed(0)
    model = ready(tiny_unet(classes=classes))
    image = torch.randint(0, 256, (2, 3, 33, 50), dtype=torch.uint8)
    probabilities = segzoo.predict_probabilities(model, image)
    if classes == 1:
        probabilities = torch.cat([1 - probabilities, probabilities], dim=1)
    best = probabilities.amax(1)
    least = float(best.median())
    plain, sure = model.predict(image), model.predict(image, min_confidence=least)
    assert torch.equal(sure, plain.masked_fill(best < least, 255))
    assert 0.2 < (sure == 255).double().mean() < 0.8
    assert torch.equal(model.predict(image, min_confidence=0), plain)
    fast = segzoo.optimize(model, backend="eager", example=image.float())
    assert (fast.predict(image, min_confidence=least) != sure).double().mean() < 0.01
    whole = segzoo.predict_tiled(model, image[0], tiling="blend", tile=64, min_confidence=least)
    assert (whole.values != sure[0].numpy()).mean() < 0.01
    indices, counts = np.unique(whole.values, return_counts=True)
    assert list(whole.shares) == indices.tolist()  # void among them
    assert list(whole.shares.values()) == (counts / whole.values.size).tolist()
    views = segzoo.predict_tiled(model, image[0], tta="flips", min_confidence=1.0)
    assert (views.values == 255).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_confidence": 1.5}, "min_confidence must be between 0 and 1, got 1.5"),
        ({"min_confidence": "high"}, "min_confidence must be a number"),
        ({"min_confidence": 0.5, "write": "probabilities"}, "probabilities are to be written"),
    ],
)
def test_what_is_no_confidence(values, message):
    model, image = tiny_unet(), torch.zeros(3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ArgumentError, match=message):
        segzoo.predict_tiled(model, image, **values)
    if "write" not in values:
        with pytest.raises(ArgumentError, match=message):
            model.predict(image, **values)


def test_where_255_is_a_class_it_is_refused():
    model, image = tiny_unet(classes=256).eval(), torch.zeros(3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ArgumentError, match="of its 256 classes 255 is one"):
        model.predict(image, min_confidence=0.5)
    assert tiny_unet(classes=255).eval().predict(image, min_confidence=1.0).max() == 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, a model, and how sure it is of them."""
    root = tmp_path_factory.mktemp("unsure")
    (root / "images").mkdir()
    chance = np.random.default_rng(0)
    for index in range(6):
        pixels = chance.integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"a{index}.png")
    torch.manual_seed(0)
    ready(small(3, class_names=("road", "sky", "car"))).save_pretrained(root / "model")
    return root


@pytest.mark.parametrize("more", [(), ("--tiling", "blend")])
def test_masks_on_the_command_line_are_labels_for_the_next_round(folder, capsys, tmp_path, more):
    model = segzoo.from_pretrained(folder / "model")
    picture = torch.from_numpy(np.array(Image.open(folder / "images" / "a0.png"))).permute(2, 0, 1)
    least = float(segzoo.predict_probabilities(model, picture).amax(0).median())
    out = tmp_path / "masks"
    arguments = ["predict", str(folder / "images"), "-m", str(folder / "model"), "-o", str(out)]
    code = main([*arguments, "--min-confidence", str(least), "--json", *more])
    first = json.loads(capsys.readouterr().out)["predictions"][0]
    assert code == 0
    with Image.open(out / "a0.png") as file:
        mask, palette = np.array(file), file.getpalette()
    expected = model.predict(picture, min_confidence=least).numpy()
    assert (mask != expected).mean() < 0.01
    assert len(palette) == 3 * 256
    indices, counts = np.unique(mask, return_counts=True)
    names = {0: "road", 1: "sky", 2: "car", 255: "void"}
    shares = {names[index]: count / mask.size for index, count in zip(indices, counts, strict=True)}
    assert first["shares"] == pytest.approx(shares)
    assert list(first["shares"])[-1] == "void"
    splits = segzoo.open_data(folder / "images", out, classes=3, ignore_index=255)
    assert len(splits.train) + len(splits.val) == 6
    assert set(splits.train[0][1].unique().tolist()) <= {0, 1, 2, 255}


def test_the_command_line_says_no_before_it_begins(folder, capsys, tmp_path):
    out = tmp_path / "out"
    arguments = ["predict", str(folder / "images"), "-m", str(folder / "model"), "-o", str(out)]
    assert main([*arguments, "--min-confidence", "80"]) == 2
    assert "min_confidence must be between 0 and 1, got 80" in capsys.readouterr().err
    ready(small(256)).save_pretrained(tmp_path / "many")
    arguments[3] = str(tmp_path / "many")
    assert main([*arguments, "--min-confidence", "0.8"]) == 2
    assert "of its 256 classes 255 is one" in capsys.readouterr().err
    assert not out.exists()
