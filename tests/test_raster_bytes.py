"""A picture that comes as bytes is read as its file is, and nothing is written to the disk."""

import io
import pickle
import struct
import tempfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from segzoo.data.raster import open_raster
from segzoo.errors import InputError, PixelLimitError

from .picture_files import planes, values
from .prediction.tiles import geotiff


def upside_down(path):
    picture = Image.fromarray(values("uint8", 3))
    exif = Image.Exif()
    exif[0x0112] = 8
    picture.save(path, exif=exif)


def palette(path):
    Image.fromarray(values("uint8", 3)).quantize(7).save(path)


def tiff(**options):
    kind, bands = options.pop("kind", "uint16"), options.pop("bands", 5)
    return lambda path: tifffile.imwrite(
        path, values(kind, bands), photometric="minisblack", planarconfig="contig", **options
    )


def located(path):
    geotiff(path, planes(values("int16", 2)), compress="deflate", nodata=-9999)


def deep_png(path):
    imagecodecs = pytest.importorskip("imagecodecs")
    path.write_bytes(imagecodecs.png_encode(values("uint16", 3)))


#: Name -> what writes such a file.
KINDS = {
    "turned.jpg": upside_down,
    "palette.png": palette,
    "palette.gif": palette,
    "deep.png": deep_png,
    "mapped.tif": tiff(),
    "segments.tif": tiff(compression="zlib", tile=(16, 32)),
    "real.tif": tiff(kind="float32", bands=2, compression="lzw"),
    "turned.tif": tiff(extratags=[(274, 3, 1, 6, True)]),
    "located.tif": located,
}


@pytest.mark.parametrize("raw", [False, True], ids=["pixels", "stored"])
@pytest.mark.parametrize("name", KINDS)
def test_bytes_are_read_as_their_file(tmp_path, monkeypatch, name, raw):
    path = tmp_path / name
    KINDS[name](path)
    content = path.read_bytes()
    with open_raster(path, raw=raw) as raster:
        expected, facts = raster.read(), {**vars(raster.info), "path": None}
        window = raster.read(slice(3, 30), slice(11, 20))
    path.unlink()
    for made in ("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile"):
        monkeypatch.setattr(tempfile, made, None)
    with open_raster(content, raw=raw) as raster:
        assert {**vars(raster.info), "path": None} == facts
        assert np.array_equal(raster.read(), expected)
        assert np.array_equal(raster.read(slice(3, 30), slice(11, 20)), window)


@pytest.mark.parametrize("name", KINDS)
def test_cut_bytes_are_told_without_addresses(tmp_path, name):
    KINDS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for part in (content[: len(content) // 2], content[:7], content[:40], b""):
        with pytest.raises(InputError, match=r"^The file ") as caught, open_raster(part) as raster:
            raster.read()
        assert "0x" not in str(caught.value)


def test_a_tile_larger_than_its_picture_counts(tmp_path):
    """It is decoded as a whole: a small picture may cost as much as a large one."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, values("uint8", 3), photometric="rgb", tile=(64, 64), compression="zlib")
    content = path.read_bytes()
    entry = struct.pack("<HHI", 322, 4, 1)
    assert content.count(entry) == 1
    place = content.index(entry) + 8
    wide = content[:place] + struct.pack("<I", 60_000) + content[place + 4 :]
    with pytest.raises(PixelLimitError, match=r"60000x64 pixels, more than the limit of 1,000,000"):
        open_raster(wide, max_pixels=1_000_000)


def test_depths_that_the_values_do_not_have_are_refused(tmp_path):
    """Where a tag points to the file's own head, tifffile passes over it and guesses."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, values("uint8", 3), photometric="rgb", tile=(16, 16), compression="zlib")
    content = path.read_bytes()
    entry = struct.pack("<HHI", 258, 3, 3)
    place = content.index(entry) + len(entry)
    damaged = content[:place] + bytes(4) + content[place + 4 :]
    with pytest.raises(InputError, match="no value has so many bits"):
        open_raster(damaged)


def test_the_limit_has_numbers_and_comes_out_of_worker_processes():
    buffer = io.BytesIO()
    Image.new("L", (50, 40)).save(buffer, "PNG")
    with pytest.raises(PixelLimitError) as caught:
        open_raster(buffer.getvalue(), max_pixels=1999)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (copied.size, copied.limit, str(copied)) == ((50, 40), 1999, str(caught.value))
