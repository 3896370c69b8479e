"""Large pictures cut into tiles, and what a georeferenced file says is not known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import segzoo
from segzoo.data.pairs import Pair
from segzoo.data.tiles import _tiles
from segzoo.errors import ArgumentError, DataError

from .making import labels, make_pairs, picture, save

SIZE = (70, 101)


@pytest.fixture
def scenes(tmp_path):
    for seed, name in enumerate(["one", "two", "three"]):
        save(tmp_path / "images" / f"{name}.tif", picture(seed, SIZE))
        save(tmp_path / "masks" / f"{name}.png", labels(seed, size=SIZE))
    return tmp_path


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 90), st.integers(16, 90))
def test_tiles_cover_every_pixel_once_and_are_even(height, width, rows, columns):
    found = np.zeros((height, width), dtype=int)
    sides = set()
    for pair in _tiles(Pair("x", None, None), (height, width), (rows, columns)):
        window = pair.window
        if window is None:
            assert (height, width) <= (rows, columns) or (height <= rows and width <= columns)
            return
        found[window.top : window.bottom, window.left : window.right] += 1
        sides.add((window.bottom - window.top, window.right - window.left))
    assert (found == 1).all()
    for axis, most in enumerate((rows, columns)):
        lengths = {side[axis] for side in sides}
        assert max(lengths) <= most
        assert max(lengths) - min(lengths) <= 1


def test_tiles_are_the_parts_of_a_picture(scenes):
    data = segzoo.open_data(scenes, tile=(32, 64), classes=3, val=["two"])
    assert (len(data.train), len(data.val)) == (12, 6)
    assert {pair.whole for pair in data.val.pairs} == {"two"}
    whole = torch.from_numpy(picture(1, SIZE)).permute(2, 0, 1)
    truth = torch.from_numpy(labels(1, size=SIZE)).long()
    for index, pair in enumerate(data.val.pairs):
        image, mask = data.val[index]
        window = pair.window
        rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
        assert pair.name == f"two_r{window.top}_c{window.left}"
        assert torch.equal(image, whole[:, rows, columns])
        assert torch.equal(mask, truth[rows, columns])
    assert not segzoo.check_data(data).findings
    other = segzoo.open_data(scenes, tile=64, classes=3, val=["two"]).description
    assert other["fingerprint"] != data.description["fingerprint"]


def test_the_tiles_of_a_picture_stay_together_unless_there_is_but_one(scenes):
    data = segzoo.open_data(scenes, tile=32, classes=3)
    sides = [{pair.whole for pair in part.pairs} for part in (data.train, data.val)]
    assert not sides[0] & sides[1]
    for name in ("two", "three"):
        (scenes / "images" / f"{name}.tif").unlink()
        (scenes / "masks" / f"{name}.png").unlink()
    data = segzoo.open_data(scenes, tile=32, classes=3)
    assert len(data.val) == round(0.2 * (len(data.train) + len(data.val)))
    (warning,) = segzoo.check_data(data).warnings
    assert warning.startswith("Parts of one picture (one) are in train and in val")


def test_the_tiles_of_a_picture_are_in_its_group_and_no_series(tmp_path):
    for number in range(12):
        save(tmp_path / "images" / f"{number}.png", picture(number, (16, 96)))
        save(tmp_path / "masks" / f"{number}.png", labels(number, size=(16, 96)))
    # The number at a name's end is that of the picture, not that of a tile's column.
    data = segzoo.open_data(tmp_path, tile=16, classes=3, val=0.5, group="[0-9]+$")
    sides = [{pair.whole for pair in part.pairs} for part in (data.train, data.val)]
    assert sorted(map(len, sides)) == [6, 6]
    assert not sides[0] & sides[1]
    assert not segzoo.check_data(segzoo.open_data(tmp_path, tile=16, classes=3)).findings


def test_small_pictures_and_other_sizes_are_left_whole(scenes):
    save(scenes / "masks" / "one.png", labels(0, size=(70, 102)))
    data = segzoo.open_data(scenes, tile=101, classes=3, val=["two"])
    assert data.train.names == ("one", "three")
    data = segzoo.open_data(scenes, tile=64, classes=3, val=["two"])
    with pytest.raises(DataError, match="one: the image has 70x101 pixels, its mask 70x102"):
        data.train[data.train.names.index("one")]


@pytest.mark.parametrize("tile", [0, 8, (64,), "64", 2.5, (64, 64, 64)], ids=str)
def test_what_is_no_tile(tmp_path, tile):
    with pytest.raises(ArgumentError, match="tile"):
        segzoo.open_data(*make_pairs(tmp_path), tile=tile)


@pytest.mark.parametrize("tile", [None, 32], ids=str)
@pytest.mark.parametrize(
    ("missing", "kind", "bounds"),
    [
        (0, "uint8", None),
        (np.nan, "float32", (0, 255)),
        (-9999, "int16", (50, 255)),  # of which 0 lies outside
        (-9999, "int32", None),  # the values that are known are those of 16 bits
    ],
    ids=str,
)
def test_what_is_not_known_is_void_and_black(scenes, tile, missing, kind, bounds):
    rasterio = pytest.importorskip("rasterio")
    values = (picture(5, SIZE).transpose(2, 0, 1) // 2 + 100).astype(kind)
    values[:, 20:40, 50:] = missing
    for name in ("one", "two", "three"):
        with rasterio.open(
            scenes / "images" / f"{name}.tif",
            *("w", "GTiff", SIZE[1], SIZE[0], 3, "EPSG:32633"),
            rasterio.Affine(1, 0, 5e5, 0, -1, 5e6),
            *(kind, missing),
        ) as file:
            file.write(values)
    given = {"tile": tile, "classes": 3, "val": ["two"], "value_range": bounds}
    data = segzoo.open_data(scenes, ignore_index=255, **given)
    void = 0
    for index in range(len(data.val)):
        image, mask = data.val[index]
        void += int((mask == 255).sum())
        assert (image[:, mask == 255].float() == 0).all()
        assert (image[:, mask != 255].float() > 0).all()
    assert void == 20 * 51
    if tile is None:  # without void the mask is that of the file
        assert np.array_equal(segzoo.open_data(scenes, **given).val[0][1], labels(1, size=SIZE))


@pytest.mark.parametrize("blank", [(0, 0, 0), (255, 0, 255)], ids=["black", "coloured"])
@pytest.mark.parametrize("ignore_index", [None, 255], ids=str)
def test_blank_corners_of_scans_are_no_finding(tmp_path, blank, ignore_index):
    for seed in range(5):
        scan, truth = picture(seed, (48, 48)), labels(seed, size=(48, 48))
        scan[:16, :16] = blank
        truth[:16, :16] = 0 if ignore_index is None else ignore_index
        save(tmp_path / "images" / f"s{seed}.png", scan)
        save(tmp_path / "masks" / f"s{seed}.png", truth)
    given = {"tile": 16, "classes": 3, "ignore_index": ignore_index}
    assert segzoo.check_data(segzoo.open_data(tmp_path, **given)).findings == ()
    save(tmp_path / "images" / "s1.png", picture(0, (48, 48)))
    data = segzoo.open_data(tmp_path, val=["s0"], **given)
    assert "pictures are in two splits" in segzoo.check_data(data).errors[0]
    if ignore_index is not None:  # the mask of a whole scan is worth a word
        save(tmp_path / "masks" / "s3.png", labels(size=(48, 48)) * 0 + 255)
        data = segzoo.open_data(tmp_path, val=["s0"], **given)
        assert any(
            "1 mask is all void in train, the first s3." in w
            for w in segzoo.check_data(data).warnings
        )
