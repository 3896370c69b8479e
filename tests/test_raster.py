"""One face for every picture file: its values are those that the file has, or it is refused."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segzoo.data.pictures import read_mask, read_picture
from segzoo.data.raster import open_raster, turned_by
from segzoo.errors import ArgumentError, InputError

from .picture_files import RNG, SHAPE, planes, values, without

# ---- what the file holds -------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "rowsperstrip": 5},
        {"tile": (16, 32), "compression": "deflate"},
        {"planarconfig": "separate", "tile": (16, 16)},
        {"planarconfig": "separate", "compression": "zlib", "rowsperstrip": 8},
        {"bigtiff": True, "byteorder": ">"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("dtype", "bands", "photometric"),
    [
        ("uint16", 3, "rgb"),
        ("uint8", 5, "minisblack"),
        ("uint16", 2, "minisblack"),
        ("int8", 1, "minisblack"),
        ("int16", 4, "minisblack"),
        ("float32", 3, "rgb"),
        ("float64", 1, "minisblack"),
        ("uint32", 1, "minisblack"),
    ],
)
def test_tiff_of_any_bands_and_type(tmp_path, dtype, bands, photometric, layout):
    array = values(dtype, bands)
    stored = planes(array) if "planarconfig" in layout else array
    if layout.get("planarconfig") and bands == 1:
        layout = {key: value for key, value in layout.items() if key != "planarconfig"}
        stored = array[..., 0]
    stored = stored[..., 0] if stored.shape[-1] == 1 else stored
    if layout.get("planarconfig") is None and bands > 1:
        layout = {**layout, "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric=photometric, **layout)
    with open_raster(tmp_path / "x.tif") as raster:
        assert raster.shape == (bands, *SHAPE)
        assert raster.info.dtype == dtype
        assert np.array_equal(raster.read(), planes(array))
        window = raster.read(slice(7, 31), slice(11, 50))
        assert np.array_equal(window, planes(array)[:, 7:31, 11:50])
        assert window.dtype.isnative


def test_12_bit_colour_in_16_bits_keeps_its_values(tmp_path):
    grey = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    tifffile.imwrite(tmp_path / "x.tif", np.dstack([grey] * 3), photometric="rgb")
    picture = read_picture(tmp_path / "x.tif")
    assert picture.dtype == torch.uint16
    assert len(np.unique(picture.numpy())) == 4096


def test_packed_12_bits_are_scaled_by_their_own_range(tmp_path):
    grey = RNG.integers(0, 4096, SHAPE, dtype=np.uint16)
    _packed12(tmp_path / "x.tif", grey)
    with open_raster(tmp_path / "x.tif") as raster:
        assert raster.info.value_range == (0, 4095)
        assert np.array_equal(raster.read()[0], grey)
    picture = read_picture(tmp_path / "x.tif")
    np.testing.assert_allclose(picture[0].numpy(), grey / 4095, rtol=1e-6)


def _packed12(path, grey):
    """tifffile writes no packed values; a TIFF of one strip is soon written."""
    rows = []
    for row in grey:
        bits = "".join(f"{value:012b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows.append(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)))
    data = b"".join(rows)
    entries = [
        (256, 3, grey.shape[1]),
        (257, 3, grey.shape[0]),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, grey.shape[0]),
        (279, 4, len(data)),
    ]
    table = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I" if kind == 4 else "<Hxx", value)
        for tag, kind, value in entries
    )
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(entries)) + table + b"\0\0\0\0")


def png(path, array):
    """A PNG of 16 bits, which Pillow does not write in colour."""
    height, width, bands = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_png_of_16_bits(tmp_path, bands, monkeypatch):
    array = values("uint16", bands)
    png(tmp_path / "x.png", array)
    picture = read_picture(tmp_path / "x.png")
    assert picture.dtype == torch.uint16
    assert np.array_equal(picture.numpy(), planes(array))
    without(monkeypatch, "imagecodecs")
    if bands == 1:
        assert np.array_equal(read_picture(tmp_path / "x.png").numpy(), planes(array))
        return
    with pytest.raises(InputError, match=rf"{bands} bands of 16 bits.*segzoo\[tiff\]"):
        read_picture(tmp_path / "x.png")


def test_jpeg_2000_of_12_bits(tmp_path, monkeypatch):
    import imagecodecs

    array = RNG.integers(0, 4096, (64, 48, 3), dtype=np.uint16)
    coded = imagecodecs.jpeg2k_encode(array, level=0, bitspersample=12, reversible=True)
    (tmp_path / "x.jp2").write_bytes(coded)
    with open_raster(tmp_path / "x.jp2") as raster:
        assert raster.info.bits == 12
        assert np.array_equal(raster.read(), planes(array))
    without(monkeypatch, "imagecodecs")
    with pytest.raises(InputError, match="3 bands of 12 bits"):
        read_picture(tmp_path / "x.jp2")


def test_ppm_of_16_bits_is_refused_with_its_bits(tmp_path):
    array = values("uint16", 3)
    (tmp_path / "x.ppm").write_bytes(b"P6 53 37 65535\n" + array.astype(">u2").tobytes())
    with pytest.raises(InputError, match="16 bits, of which Pillow gives 8"):
        read_picture(tmp_path / "x.ppm")


def test_a_fourth_band_that_is_no_opacity_is_not_dropped(tmp_path):
    array = values("uint8", 4)
    tifffile.imwrite(tmp_path / "nir.tif", array, photometric="rgb", extrasamples=["unspecified"])
    tifffile.imwrite(tmp_path / "alpha.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    for name, alpha in (("nir", False), ("alpha", True)):
        with open_raster(tmp_path / f"{name}.tif") as raster:
            assert raster.info.alpha is alpha
            assert np.array_equal(raster.read(), planes(array))
    two = values("uint8", 2)
    tifffile.imwrite(tmp_path / "two.tif", two, photometric="minisblack", planarconfig="contig")
    assert np.array_equal(read_picture(tmp_path / "two.tif").numpy(), planes(two))


def test_what_is_not_known_is_told_by_the_stored_value_where_white_is_zero(tmp_path):
    stored = values("uint16")[..., 0]
    stored[:9] = 7
    stored[9:12] = 65535 - 7
    path = tmp_path / "x.tif"
    tag = [(42113, "s", 0, "7", True)]  # GDAL_NODATA
    tifffile.imwrite(path, stored, photometric="miniswhite", extratags=tag)
    with open_raster(path) as raster:
        assert raster.info.nodata == 65535 - 7
        assert np.array_equal(raster.read()[0], 65535 - stored)
        assert np.array_equal(raster.valid(), stored != 7)
    with open_raster(path, raw=True) as raster:
        assert raster.info.nodata == 7
        assert np.array_equal(raster.valid(), stored != 7)


@pytest.mark.parametrize(
    ("bits", "kind", "stored", "read"),
    [
        (8, "rgb", 7, 7),
        (8, "minisblack", 7, 7),
        (8, "miniswhite", 7, 255 - 7),
        (1, "minisblack", 1, 255),
        (1, "miniswhite", 1, 0),
        (8, "palette", 7, None),
    ],
)
def test_what_is_not_known_of_a_tiff_that_pillow_reads(tmp_path, bits, kind, stored, read):
    array = values("uint8", 3) if kind == "rgb" else values("uint8")[..., 0]
    array = array % 2 if bits == 1 else array
    array[:9] = stored
    missing = array == stored
    missing = missing.all(axis=-1) if kind == "rgb" else missing
    more = {"colormap": np.zeros((3, 256), np.uint16)} if kind == "palette" else {}
    more |= {"bitspersample": 1} if bits == 1 else {}
    tag = [(42113, "s", 0, str(stored), True)]  # GDAL_NODATA
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array, photometric=kind, extratags=tag, **more)
    with open_raster(path) as raster:
        assert raster.info.nodata == read
        known = raster.valid()
        assert known is None if read is None else np.array_equal(known, ~missing)
    with open_raster(path, raw=True) as raster:  # as a mask, where it becomes void
        assert raster.info.nodata == stored
        assert np.array_equal(raster.valid(), ~missing)


@pytest.mark.parametrize("package", ["tifffile", "none"])
def test_what_needs_tifffile_says_so(tmp_path, monkeypatch, package):
    tifffile.imwrite(tmp_path / "x.tif", values("uint16", 3), photometric="rgb")
    tifffile.imwrite(tmp_path / "plain.tif", values("uint8", 3), photometric="rgb")
    if package == "tifffile":
        without(monkeypatch, "tifffile")
        with pytest.raises(InputError, match=r"3 bands of uint16 \(RGB\).*segzoo\[tiff\]"):
            read_picture(tmp_path / "x.tif")
    assert read_picture(tmp_path / "plain.tif").shape == (3, *SHAPE)


def test_tifffile_and_pillow_agree_where_both_are_true(tmp_path, monkeypatch):
    for name, array, options in (
        ("rgb", values("uint8", 3), {"photometric": "rgb"}),
        ("rgba", values("uint8", 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        ("grey", values("uint8")[..., 0], {"photometric": "minisblack"}),
        ("deep", values("uint16")[..., 0], {"photometric": "minisblack"}),
        ("white", values("uint8")[..., 0], {"photometric": "miniswhite"}),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, array, compression="zlib", **options)
        for raw in (False, True):
            with open_raster(path, raw=raw) as raster:
                assert "tifffile" not in type(raster).__module__
                small = raster.read()
            monkeypatch.setattr("segzoo.data.raster._LARGE", 0)
            with open_raster(path, raw=raw) as raster:
                assert "pillow" not in type(raster).__module__
                assert np.array_equal(raster.read(), small), (name, raw)
            monkeypatch.undo()


@pytest.mark.parametrize("raw", [False, True], ids=["picture", "mask"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_upright(tmp_path, monkeypatch, orientation, raw):
    tag = [(274, "H", 1, orientation, True)]
    plain = values("uint8", 3)
    tifffile.imwrite(tmp_path / "plain.tif", plain, photometric="rgb", extratags=tag)
    with open_raster(tmp_path / "plain.tif", raw=raw) as raster:
        expected = raster.read()
        assert "tifffile" not in type(raster).__module__
    if orientation == 6:  # as it is looked at
        assert np.array_equal(expected, np.rot90(planes(plain), -1, (1, 2)))
    for dtype in ("int16", "uint16", "float32", "uint8"):
        monkeypatch.setattr("segzoo.data.raster._LARGE", 0)  # 8 bits by windows, too
        path = tmp_path / f"{dtype}.tif"
        tifffile.imwrite(path, plain.astype(dtype), photometric="rgb", extratags=tag)
        with open_raster(path, raw=raw) as raster:
            assert "pillow" not in type(raster).__module__
            assert raster.shape == expected.shape
            assert np.array_equal(raster.read(), expected)
        assert turned_by(path) == orientation


def test_overviews_and_thumbnails_are_no_pictures_of_their_own(tmp_path):
    array = values("uint8", 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(array, photometric="rgb")
        file.write(array[::2, ::2].copy(), photometric="rgb", subfiletype=1)
    assert np.array_equal(read_picture(tmp_path / "x.tif").numpy(), planes(array))
    with tifffile.TiffWriter(tmp_path / "y.tif") as file:
        file.write(array[::2, ::2].copy(), photometric="rgb", subfiletype=1)
        file.write(array, photometric="rgb")
    assert np.array_equal(read_picture(tmp_path / "y.tif").numpy(), planes(array))


# ---- masks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_masks_have_the_values_of_the_file(tmp_path, dtype):
    array = values(dtype)[..., 0]
    tifffile.imwrite(tmp_path / "m.tif", array, photometric="minisblack")
    assert np.array_equal(read_mask(tmp_path / "m.tif").numpy(), array)


def test_masks_are_not_inverted_or_stretched(tmp_path):
    small = RNG.integers(0, 4, SHAPE, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "m.tif", small, photometric="miniswhite")
    assert np.array_equal(read_mask(tmp_path / "m.tif").numpy(), small)
    assert np.array_equal(read_picture(tmp_path / "m.tif")[0].numpy(), 255 - small)
    Image.fromarray(small).save(tmp_path / "m.png", bits=2)
    Image.fromarray(small > 1).save(tmp_path / "bits.png")
    assert np.array_equal(read_mask(tmp_path / "bits.png").numpy(), small > 1)
    (tmp_path / "m.pgm").write_bytes(b"P5 53 37 11\n" + small.tobytes())
    with pytest.raises(InputError, match="largest value of 11"):
        read_mask(tmp_path / "m.pgm")


def test_grey_png_masks_of_few_bits(tmp_path):
    small = RNG.integers(0, 4, SHAPE, dtype=np.uint8)
    for bits in (2, 4):
        _small_png(tmp_path / "m.png", small, bits)
        assert np.array_equal(read_mask(tmp_path / "m.png").numpy(), small)
        scale = 255 // (2**bits - 1)
        assert np.array_equal(read_picture(tmp_path / "m.png")[0].numpy(), small * scale)


def _small_png(path, array, bits):
    text = ["".join(f"{value:0{bits}b}" for value in row) for row in array]
    text = [row + "0" * (-len(row) % 8) for row in text]
    lines = b"".join(
        b"\0" + bytes(int(row[i : i + 8], 2) for i in range(0, len(row), 8)) for row in text
    )

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_a_mask_has_whole_numbers(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", values("float32")[..., 0])
    with pytest.raises(InputError, match=r"float32 values\. A mask has whole numbers"):
        read_mask(tmp_path / "m.tif")


# ---- bands and ranges ----------------------------------------------------------------------


def test_bands_are_chosen_by_number(tmp_path):
    array = values("uint16", 5)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="minisblack", planarconfig="contig")
    picture = read_picture(tmp_path / "x.tif", bands=(4, 3, 2))
    assert np.array_equal(picture.numpy(), planes(array)[[3, 2, 1]])
    with pytest.raises(InputError, match="5 bands; there is no band 6"):
        read_picture(tmp_path / "x.tif", bands=(6,))
    for bad in ((0,), (), (1.5,)):
        with pytest.raises(ArgumentError, match="bands"):
            read_picture(tmp_path / "x.tif", bands=bad)


def test_signed_and_real_values_need_a_range(tmp_path):
    array = values("int16", 3)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb")
    with pytest.raises(InputError, match=rf"int16 values from {array.min()} to {array.max()}"):
        read_picture(tmp_path / "x.tif")
    picture = read_picture(tmp_path / "x.tif", value_range=(-100, 300))
    expected = (planes(array).astype(np.float64) + 100) / 400
    np.testing.assert_allclose(picture.numpy(), expected, rtol=1e-5, atol=1e-6)
    for bad in ((3, 3), (1,), (0, float("nan")), "ab"):
        with pytest.raises(ArgumentError, match="value_range"):
            read_picture(tmp_path / "x.tif", value_range=bad)


def test_values_that_are_no_numbers_are_counted(tmp_path):
    array = values("float32", 3)
    array[3, 4, 1] = array[5, 6, 0] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb")
    with pytest.raises(InputError, match="2 pixels that are not finite"):
        read_picture(tmp_path / "x.tif", value_range=(0, 1))


def test_exif_behind_the_pixels_is_found_without_decoding(tmp_path):
    array = values("uint8", 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "x.png")
    whole = (tmp_path / "x.png").read_bytes()
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "x.png").write_bytes(whole[:-12] + chunk + whole[-12:])
    turned = np.rot90(planes(array), -1, (1, 2))
    assert np.array_equal(read_picture(tmp_path / "x.png").numpy(), turned)
