"""Which bands of pictures a model sees, and what is asked where nothing tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import segzoo
from segzoo.data.open_pairs import open_pairs
from segzoo.data.pictures import read_picture
from segzoo.errors import ArgumentError, DataError, InputError

from .making import SIZE, labels, make_pairs, picture, save


def test_grey_among_colours_and_chosen_bands(tmp_path):
    images, masks = make_pairs(tmp_path)
    save(images / "b.png", picture(1)[..., 0])
    save(images / "c.png", np.dstack([picture(2), picture(3)[..., 0]]))
    data = segzoo.open_data(images, masks)
    assert data.in_channels == 3
    assert {
        tuple(part[i][0].shape) for part in (data.train, data.val) for i in range(len(part))
    } == {(3, *SIZE)}
    (images / "b.png").unlink()
    (masks / "b.png").unlink()
    data = segzoo.open_data(images, masks, bands=(3, 1))
    index = data.train.names.index("a") if "a" in data.train.names else 0
    seed = "abcdef".index(data.train.names[index])
    assert np.array_equal(data.train[index][0].permute(1, 2, 0).numpy(), picture(seed)[..., [2, 0]])
    with pytest.raises(DataError, match="no band 7, the picture has"):
        segzoo.open_data(images, masks, bands=(7,)).train[0]
    for bands in (3, (), (0,), "12"):
        with pytest.raises(ArgumentError, match="bands"):
            segzoo.open_data(images, masks, bands=bands)
    odd = replace(data.val, bands=None, channels=5)
    with pytest.raises(DataError, match="bands instead of 5"):
        odd[0]


def test_values_that_need_a_range_and_any_bands(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    make_pairs(tmp_path, "abcd")
    for seed, path in enumerate(sorted((tmp_path / "images").iterdir())):
        path.unlink()
        deep = np.dstack([picture(seed), picture(seed + 9)]).astype(np.int16) * 40 - 100
        tifffile.imwrite(
            path.with_suffix(".tif"), deep, photometric="minisblack", planarconfig="contig"
        )
    data = segzoo.open_data(tmp_path, value_range=(-100, 9900), val=["a"])
    assert data.in_channels == 6
    image, _ = data.train[0]
    expected = np.dstack([picture(1), picture(10)]).transpose(2, 0, 1) * 40.0 / 10000
    assert np.allclose(image.numpy(), expected, atol=1e-6)
    report = segzoo.check_data(segzoo.open_data(tmp_path, val=["a"]))
    assert "4 of 4 pairs, the first" in report.errors[0]
    assert "value_range=(LOW, HIGH)" in report.errors[0]
    chosen = segzoo.open_data(tmp_path, value_range=(-100, 9900), val=["a"], bands=(5, 1))
    assert torch.equal(chosen.train[0][0], image[[4, 0]])


def test_a_band_that_is_not_taken_decides_nothing(tmp_path):
    """Neither that it is no number, nor that it is no value of 16 bits."""
    tifffile = pytest.importorskip("tifffile")
    images, masks = make_pairs(tmp_path, "a")
    (images / "a.png").unlink()
    for kind, worst, bounds in (("float32", np.nan, (0, 255)), ("int32", -1, None)):
        scene = np.dstack([picture(), labels()]).astype(kind)
        scene[..., 3] = worst
        tifffile.imwrite(images / "a.tif", scene, photometric="minisblack", planarconfig="contig")
        given = {"bands": (3, 1), "value_range": bounds}
        image, _ = open_pairs(images, masks, classes=3, **given)[0]
        assert torch.equal(image, read_picture(images / "a.tif", **given))
        assert np.allclose(image * (255 if bounds else 1), picture().transpose(2, 0, 1)[[2, 0]])
        with pytest.raises(InputError):
            open_pairs(images, masks, classes=3, value_range=bounds)[0]


def test_an_infrared_band_is_no_opacity(tmp_path):
    """Of a scene beside coloured pictures, and of one that a model of three bands is scored on."""
    tifffile = pytest.importorskip("tifffile")
    images, masks = make_pairs(tmp_path)
    scene = np.dstack([picture(), labels()])
    (images / "a.png").unlink()
    for kind, told in (("unassalpha", True), ("unspecified", False)):
        tifffile.imwrite(images / "a.tif", scene, photometric="rgb", extrasamples=[kind])
        pairs = open_pairs(images, masks, classes=3, channels=3)
        if told:
            assert np.array_equal(pairs[0][0].permute(1, 2, 0).numpy(), picture())
        else:
            with pytest.raises(DataError, match=r"a: 4 bands instead of 3.*bands=\(1, 2, 3\)"):
                pairs[0]
