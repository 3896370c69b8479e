"""Picture files: what their bands mean, and nothing half written."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo.data.drawing import class_colors, overlay, write_mask, write_overlay
from segzoo.data.pictures import find_pictures, read_mask, read_picture, to_bands
from segzoo.data.raster import open_raster
from segzoo.errors import InputError, StorageError
from segzoo.files.atomic import make_folder

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_rgb_is_read_as_it_stands(tmp_path, ending):
    Image.fromarray(RGB).save(tmp_path / f"x.{ending}", lossless=True)
    picture = read_picture(tmp_path / f"x.{ending}")
    assert picture.dtype == torch.uint8
    assert torch.equal(picture, torch.from_numpy(RGB).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("pixels", "bands"), [(GREY, 1), (RGBA[..., :2].copy(), 2), (RGBA, 4)], ids=["L", "LA", "RGBA"]
)
def test_the_number_of_bands_is_the_file_s(tmp_path, pixels, bands):
    Image.fromarray(pixels).save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png")
    assert picture.shape == (bands, 5, 7)
    assert torch.equal(picture, torch.from_numpy(pixels.reshape(5, 7, bands)).permute(2, 0, 1))


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bits_stay_16_bits(tmp_path, ending, order):
    Image.fromarray(DEEP.astype(order)).save(tmp_path / f"x.{ending}")
    picture = read_picture(tmp_path / f"x.{ending}")
    assert picture.dtype == torch.uint16
    assert np.array_equal(picture[0].numpy(), DEEP)


def test_32_bit_files_with_16_bit_values_are_read(tmp_path):
    Image.fromarray(DEEP.astype(np.int32)).save(tmp_path / "x.tif")
    assert np.array_equal(read_picture(tmp_path / "x.tif")[0].numpy(), DEEP)


def test_palettes_cmyk_and_bits_become_colours_and_grey(tmp_path):
    image = Image.fromarray(RGB)
    image.quantize(16).save(tmp_path / "palette.png")
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    image.convert("1").save(tmp_path / "bits.png")
    image.quantize(16).save(tmp_path / "clear.png", transparency=0)
    expected = np.asarray(image.quantize(16).convert("RGB"))
    assert np.array_equal(read_picture(tmp_path / "palette.png").permute(1, 2, 0).numpy(), expected)
    assert read_picture(tmp_path / "cmyk.tif").shape == (3, 5, 7)
    assert set(read_picture(tmp_path / "bits.png").unique().tolist()) <= {0, 255}
    assert read_picture(tmp_path / "clear.png").shape == (4, 5, 7)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(RGB)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image.save(tmp_path / "x.png", exif=exif)
    turned = torch.from_numpy(RGB).permute(2, 0, 1).rot90(-1, (1, 2))
    assert torch.equal(read_picture(tmp_path / "x.png"), turned)


def test_what_cannot_be_read_is_told(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    for name, reason in (
        ("cut.png", "cannot be read as a picture"),
        ("text.png", "cannot be read as a picture"),
        ("missing.png", "cannot be read as a picture"),
        ("float.tif", "float32"),
        ("pages.tif", "holds 2 pictures"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            read_picture(tmp_path / name)
        assert name in str(caught.value)


def test_luminance_is_pillow_s():
    expected = np.asarray(Image.fromarray(RGB).convert("L"))
    grey = to_bands(torch.from_numpy(RGB).permute(2, 0, 1), 1)
    assert np.array_equal(grey[0].numpy(), expected)
    deep = torch.full((3, 2, 2), 65535).to(torch.uint16)
    assert torch.equal(to_bands(deep, 1).long(), torch.full((1, 2, 2), 65535))


@pytest.mark.parametrize(
    ("given", "bands", "source"),
    [(1, 3, [0, 0, 0]), (2, 1, [0]), (2, 3, [0, 0, 0]), (4, 3, [0, 1, 2]), (4, 4, [0, 1, 2, 3])],
)
def test_bands_are_repeated_or_left_out(given, bands, source):
    picture = torch.from_numpy(RGBA).permute(2, 0, 1)[:given]
    alpha = given in (2, 4)
    assert torch.equal(to_bands(picture, bands, alpha=alpha), picture[source])


def test_opacity_is_left_out_of_any_number_of_bands():
    picture = torch.arange(6)[:, None, None]
    assert to_bands(picture, 5, alpha=True).flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given", "bands"), [(3, 4), (1, 2), (3, 2), (4, 5), (4, 2), (4, 3), (4, 1), (2, 1), (2, 3)]
)
def test_bands_that_nothing_tells_are_refused(given, bands):
    with pytest.raises(InputError, match=f"{given} bands and the model takes {bands}"):
        to_bands(torch.zeros(given, 2, 2, dtype=torch.uint8), bands)


@pytest.mark.parametrize("boxes", [True, False], ids=["said", "not said"])
def test_a_fourth_band_of_jpeg_2000_is_opacity_where_it_is_said(tmp_path, boxes):
    Image.fromarray(RGBA).save(tmp_path / "x.jp2", irreversible=False)
    data = (tmp_path / "x.jp2").read_bytes()
    (tmp_path / "x.jp2").write_bytes(data if boxes else data[data.index(b"\xff\x4f\xff\x51") :])
    with open_raster(tmp_path / "x.jp2") as raster:
        assert (raster.info.bands, raster.info.alpha) == (4, boxes)
        assert np.array_equal(raster.read(), RGBA.transpose(2, 0, 1))


@pytest.mark.parametrize("classes", [2, 3, 17, 256, 300])
def test_a_mask_comes_back_as_it_was(tmp_path, classes):
    mask = torch.arange(classes).repeat(2)[: classes + 3].repeat(4, 1)
    write_mask(tmp_path / "m.png", mask, classes=classes)
    assert torch.equal(read_mask(tmp_path / "m.png"), mask)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == ("P" if classes <= 256 else "I;16")
        if classes <= 256:
            colors = np.asarray(image.convert("RGB"))
            assert np.array_equal(colors, class_colors(classes)[mask.numpy()])
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


def test_a_mask_has_one_band(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="3 bands"):
        read_mask(tmp_path / "x.png")


def test_colours_of_classes_are_distinct_and_do_not_depend_on_their_number():
    colors = class_colors(256)
    assert len(np.unique(colors, axis=0)) == 256
    assert np.array_equal(class_colors(5), colors[:5])


def test_overlay_leaves_class_0_alone_and_draws_borders_in_full():
    picture = torch.full((3, 9, 9), 100, dtype=torch.uint8)
    mask = torch.zeros(9, 9, dtype=torch.long)
    mask[2:7, 2:7] = 1
    pixels = overlay(picture, mask, opacity=0.5)
    color = class_colors(2)[1]
    assert (pixels[mask.numpy() == 0] == 100).all()
    assert (pixels[2, 2] == color).all()
    assert np.abs(pixels[4, 4] - (100 + color.astype(float)) / 2).max() <= 0.5


def test_a_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "m.png"
    write_mask(target, torch.zeros(3, 3, dtype=torch.long), classes=2)
    before = target.read_bytes()

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        write_overlay(target, torch.zeros(3, 3, 3, dtype=torch.uint8), torch.zeros(3, 3).long())
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


def test_folders_are_expanded_in_order_and_each_file_once(tmp_path):
    for name in ("b.png", "a.PNG", "notes.txt", ".hidden.png", "c.jpeg"):
        (tmp_path / name).touch()
    (tmp_path / "deeper.png").mkdir()
    found = find_pictures([tmp_path / "c.jpeg", tmp_path])
    assert [path.name for path in found] == ["c.jpeg", "a.PNG", "b.png"]


def test_a_file_and_links_to_it_are_one_and_only_links_are_followed(tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.png").touch()
    (folder / "05_again.png").symlink_to(folder / "05.png")
    (folder / "elsewhere.png").symlink_to(tmp_path / "x.png")
    (folder / "broken.png").symlink_to(tmp_path / "missing.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "deeper.png").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "x.png").touch()
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    followed, real = [], os.path.realpath

    def counted(path, **options):
        followed.append(Path(path).name)
        return real(path, **options)

    monkeypatch.setattr(os.path, "realpath", counted)
    found = find_pictures([folder / "07.png", tmp_path / "link", folder])
    names = [f"{number:02d}.png" for number in range(20) if number != 7]
    assert [path.name for path in found] == ["07.png", *names, "elsewhere.png"]
    assert len(followed) == 1 + 2 * 3  # a file; twice the folder and the two links in it


def test_paths_without_pictures_are_refused(tmp_path):
    with pytest.raises(InputError, match="no pictures in the folder"):
        find_pictures([tmp_path])
    with pytest.raises(InputError, match="no file"):
        find_pictures([tmp_path / "missing.png"])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        make_folder(tmp_path / "file")
