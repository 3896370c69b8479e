"""Files that are no pictures, too large, damaged or several are told at once."""

import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from segzoo.data.pictures import find_pictures, read_mask, read_picture, read_stored
from segzoo.data.raster import open_raster
from segzoo.errors import InputError

from .picture_files import values

# ---- refused, at once ----------------------------------------------------------------------


def test_the_limit_on_pixels_is_ours(tmp_path):
    Image.new("1", (13_500, 13_500)).save(tmp_path / "x.png")  # above Pillow's own limit
    with pytest.raises(InputError, match=r"13500x13500 pixels, more than the limit of 1,000"):
        read_picture(tmp_path / "x.png", max_pixels=1000)
    with open_raster(tmp_path / "x.png") as raster:
        assert raster.shape == (1, 13_500, 13_500)


def test_what_is_left_out_of_a_tiff_counts_as_well(tmp_path):
    """Nothing of the pixels is in the file, or all of them in one strip."""
    path = tmp_path / "x.tif"
    shape = (40_000, 30_000)
    rows = ((np.zeros((512, 512), np.uint16) if i == 0 else None) for i in range(79 * 59))
    tifffile.imwrite(path, rows, shape=shape, dtype=np.uint16, tile=(512, 512), compression="zlib")
    assert path.stat().st_size < 2**18
    with open_raster(path) as raster:
        assert raster.read(slice(0, 8), slice(0, 8)).shape == (1, 8, 8)
    for read in (read_picture, read_mask, read_stored):
        with pytest.raises(InputError, match="30000x40000 pixels, more than the limit"):
            read(path)
    strip = np.zeros((300, 300), np.uint16)
    tifffile.imwrite(path, strip, compression="zlib", rowsperstrip=300)
    with pytest.raises(InputError, match="300x300 pixels, more than the limit of 1,000"):
        open_raster(path, max_pixels=1000)
    bands = np.zeros((300, 300, 5), np.uint16)  # not compressed: any size
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig", rowsperstrip=300)
    with open_raster(path, max_pixels=1000) as raster:
        assert raster.read(slice(0, 3)).shape == (5, 3, 300)
    tifffile.imwrite(path, strip, photometric="miniswhite")
    with pytest.raises(InputError, match="300x300 pixels, more than the limit of 1,000"):
        open_raster(path, max_pixels=1000)
    tifffile.imwrite(path, np.zeros((8, 8, 500), np.uint8), planarconfig="contig")
    with pytest.raises(InputError, match="8x8 pixels of 500 bands, more than the limit of 1,000"):
        read_picture(path, max_pixels=1000)


def test_many_pages_are_not_counted_to_the_end(tmp_path):
    page = struct.pack("<H", 2) + struct.pack("<HHIHxx", 256, 3, 1, 4)
    page += struct.pack("<HHIHxx", 257, 3, 1, 4)
    size, count = len(page) + 4, 300_000
    pages = (page + struct.pack("<I", 8 + size * (i + 1)) for i in range(count))
    (tmp_path / "x.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + b"".join(pages))
    with pytest.raises(InputError, match="more than 1000 pictures"):
        read_picture(tmp_path / "x.tif")
    circle = b"II*\0" + struct.pack("<I", 8) + page + struct.pack("<I", 8)
    (tmp_path / "x.tif").write_bytes(circle)
    with pytest.raises(InputError, match="circle"):
        read_picture(tmp_path / "x.tif")


def test_frames_are_not_counted_to_the_end(tmp_path):
    frames = [Image.fromarray(values("uint8")[..., 0]) for _ in range(20)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="more than 16 pictures"):
        read_picture(tmp_path / "x.gif")


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr("subprocess.Popen", refuse)
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    (tmp_path / "photo.png").write_bytes(text)
    with pytest.raises(InputError, match="none of PNG, JPEG"):
        read_picture(tmp_path / "photo.png")


def test_a_cut_or_changed_tiff_is_told(tmp_path):
    array = values("uint16", 3)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array, photometric="rgb", tile=(16, 16), compression="zlib")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_picture(path)
    path.write_bytes(whole)
    with open_raster(path) as raster:
        path.write_bytes(whole[: len(whole) // 2])  # while it is read
        with pytest.raises(InputError, match="ends where values should be"):
            raster.read()


def test_windows_outside_are_refused(tmp_path):
    Image.fromarray(values("uint8", 3)).save(tmp_path / "x.png")
    with open_raster(tmp_path / "x.png") as raster:
        for rows in (slice(0, 38), slice(5, 5), slice(-1, 3), slice(0, 10, 2)):
            with pytest.raises(InputError, match="has 37 rows"):
                raster.read(rows)


def test_pipes_do_not_hang(tmp_path):
    import os

    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(InputError, match="no ordinary file"):
        read_picture(tmp_path / "x.png")


def test_files_that_are_no_pictures_are_not_found(tmp_path):
    for name in ("a.png", "b.h5", "c.grib", "d.eps", "e.tif", "f.mpo"):
        (tmp_path / name).touch()
    assert [path.name for path in find_pictures([tmp_path])] == ["a.png", "e.tif", "f.mpo"]
