"""A file that becomes shorter while it is read is told, whoever reads it, and ends nothing."""

import os

import numpy as np
import pytest
import tifffile
from PIL import Image

from segzoo.data.raster import open_raster
from segzoo.errors import InputError
from tests.prediction.tiles import geotiff

VALUES = np.random.default_rng(0).integers(0, 256, (3, 400, 500), dtype=np.uint8)
DEEP = VALUES.transpose(1, 2, 0).astype(np.uint16)


def plain(path, **options):
    tifffile.imwrite(path, DEEP, photometric="rgb", **options)


WAYS = {
    "strips.tif": lambda path: plain(path, rowsperstrip=16),
    "one strip.tif": plain,
    "planes.tif": lambda path: tifffile.imwrite(
        path, VALUES.astype(np.uint16), photometric="rgb", planarconfig="separate"
    ),
    "tiles.tif": lambda path: plain(path, tile=(64, 64)),
    "deflate.tif": lambda path: plain(path, tile=(64, 64), compression="zlib"),
    "place.tif": lambda path: geotiff(path, VALUES),
    "blocks.tif": lambda path: geotiff(
        path, VALUES, tiled=True, blockxsize=128, blockysize=128, compress="deflate"
    ),
    "photo.png": lambda path: Image.fromarray(VALUES.transpose(1, 2, 0)).save(path),
    "photo.bmp": lambda path: Image.fromarray(VALUES.transpose(1, 2, 0)).save(path),
    "photo.tif": lambda path: Image.fromarray(VALUES.transpose(1, 2, 0)).save(path),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("columns", [slice(0, 500), slice(90, 130)])
def test_a_file_that_shrinks(tmp_path, name, columns):
    path = tmp_path / name
    WAYS[name](path)
    with open_raster(path) as raster:
        if not name.startswith("photo"):  # which are decoded at once, when they are first read
            assert np.array_equal(raster.read(slice(0, 8), columns), VALUES[:, :8, columns])
        os.truncate(path, path.stat().st_size // 3)
        with pytest.raises(InputError, match=f"{name}.*(cut|truncated|changed|Read failed)"):
            raster.read(slice(380, 400), columns)
