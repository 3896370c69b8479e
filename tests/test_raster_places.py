"""Georeferenced files: their values, place, palette and unknown pixels."""

import numpy as np
import pytest
import rasterio
import tifffile

from segzoo.data.pictures import read_mask, read_picture
from segzoo.data.raster import open_raster, turned_by

from .picture_files import RNG, SHAPE, planes, values
from .prediction.tiles import geotiff

# ---- georeferenced -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32"])
def test_georeferenced_files(tmp_path, dtype):
    array = planes(values(dtype, 4))
    path = tmp_path / "x.tif"
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 32}
    geotiff(path, array, compress="deflate", photometric="minisblack", alpha="no", **blocks)
    with open_raster(path) as raster:
        info = raster.info
        assert info.georeference.transform == (10, 0, 500_000, 0, -10, 5_000_000)
        assert "UTM zone 33N" in info.georeference.crs
        assert info.block == (32, 16)
        assert np.array_equal(raster.read(slice(3, 30), slice(20, 53)), array[:, 3:30, 20:53])
        assert raster.valid() is None


def test_nodata_is_known_before_a_model_sees_it(tmp_path):
    array = planes(values("int16", 2))
    array[:, 5:9] = -9999
    geotiff(tmp_path / "x.tif", array, nodata=-9999)
    with open_raster(tmp_path / "x.tif") as raster:
        assert raster.info.nodata == -9999
        known = raster.valid(slice(0, 20), slice(10, 20))
        assert known.shape == (20, 10)
        assert not known[5:9].any()
        assert known[:5].all()


def test_a_palette_on_the_ground_is_colour_or_a_mask(tmp_path):
    array = RNG.integers(0, 3, (1, *SHAPE), dtype=np.uint8)
    path = tmp_path / "x.tif"
    geotiff(path, array, photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (0, 0, 0), 1: (200, 10, 30), 2: (5, 6, 7)})
    assert np.array_equal(read_mask(path).numpy(), array[0])
    colours = np.array([(0, 0, 0), (200, 10, 30), (5, 6, 7)], np.uint8)[array[0]]
    assert np.array_equal(read_picture(path).numpy(), planes(colours))


@pytest.mark.parametrize("raw", [False, True], ids=["picture", "mask"])
def test_what_has_a_place_on_the_ground_is_not_turned(tmp_path, raw, monkeypatch):
    """The place is that of the pixels as they are stored; nobody warns of a turn that is none."""
    array = planes(values("int16", 2))
    path = tmp_path / "x.tif"
    scale = (33550, "d", 3, (1.0, 1.0, 0.0), True)
    origin = (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), True)
    tags = [(274, "H", 1, 3, True), scale, origin]
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig="separate", extratags=tags)
    with open_raster(path, raw=raw) as raster:
        assert np.array_equal(raster.read(), array)
    assert turned_by(path) == 1
    monkeypatch.setattr("segzoo.data.raster.has_package", lambda name: name != "rasterio")
    with open_raster(path, raw=raw) as raster:
        assert np.array_equal(raster.read(), array[:, ::-1, ::-1])
    assert turned_by(path) == 3
