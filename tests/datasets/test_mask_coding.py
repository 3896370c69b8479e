"""From what masks hold to classes: numbers, label maps, palettes, void; and what is refused."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import segzoo
from segzoo.data.class_coding import class_coding
from segzoo.data.classes import read_class_names
from segzoo.data.lossy import lossy_bytes, lossy_format
from segzoo.data.mask_coding import MaskCoding
from segzoo.data.mask_file import orientation, read_classes
from segzoo.data.pictures import read_mask
from segzoo.errors import ArgumentError, DataError, InputError

from .making import labels, make_pairs, picture, save

SKY, ROAD, VOID = (128, 128, 128), (128, 64, 128), (0, 0, 0)


def tensor(values, dtype=np.uint8):
    return torch.from_numpy(np.array(values, dtype=dtype))[None]


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40),
    st.sampled_from([np.uint8, np.uint16, np.int8, np.int16, np.int32, np.int64, np.float64]),
    st.data(),
)
def test_a_label_map_is_a_dictionary(values, dtype, data):
    if dtype != np.float64:
        limits = np.iinfo(dtype)
        values = [value % (limits.max - limits.min + 1) + limits.min for value in values]
    classes = 5
    numbers = {
        value: data.draw(st.integers(0, classes - 1), label=str(value)) for value in set(values)
    }
    coding = class_coding(classes=classes, label_map=numbers).coding
    found = coding.decode(tensor([values], dtype))
    assert found.dtype == torch.int64
    assert found[0].tolist() == [numbers[value] for value in values]


@given(st.data())
def test_a_palette_is_a_dictionary(data):
    color = st.tuples(*[st.integers(0, 255)] * 3)
    colors = data.draw(st.lists(color, min_size=1, max_size=30, unique=True))
    targets = data.draw(st.lists(st.sampled_from(range(len(colors))), min_size=1, max_size=50))
    coding = class_coding(palette=colors).coding
    rgb = np.array([[colors[target] for target in targets]], dtype=np.uint8)
    assert coding.decode(torch.from_numpy(rgb).permute(2, 0, 1))[0].tolist() == targets


def test_values_that_are_no_class():
    coding = MaskCoding(3, ignore_index=255)
    assert coding.decode(tensor([[0, 2, 255]]))[0].tolist() == [0, 2, 255]
    with pytest.raises(DataError, match=r"no class: 7, classes are 0..2. Pass ignore_index=7"):
        coding.decode(tensor([[0, 7]]))
    with pytest.raises(DataError, match=r"no class: -1, .* ignore_index=-1 if that is void\."):
        coding.decode(tensor([[0, -1]], np.int8))
    with pytest.raises(DataError, match=r"no class: 3, 9, .*classes=10"):
        coding.decode(tensor([[3, 9]]))
    with pytest.raises(DataError, match=r"-5, -1, .*label_map=\{old: new\}"):
        coding.decode(tensor([[-1, -5]], np.int16))
    with pytest.raises(DataError, match=r"label_map=\{255: 1\} if 255 is the class 1, or ignore_i"):
        MaskCoding(2).decode(tensor([[0, 255]]))
    assert MaskCoding(2, ignore_index=-1).decode(tensor([[-1, 1]], np.int8))[0].tolist() == [-1, 1]
    with pytest.raises(DataError, match=f"no class: {2**64 - 1}"):
        coding.decode(tensor([[1, 2**64 - 1]], np.uint64))


def test_what_a_label_map_does_not_name():
    coding = class_coding(classes=2, label_map={"255": 1}).coding
    assert coding.decode(tensor([[0, 255, 0]]))[0].tolist() == [0, 1, 0]
    # 1 would silently become the class that is made of 255.
    with pytest.raises(DataError, match="value 1 is not in label_map, which makes class 1 of 255"):
        coding.decode(tensor([[1, 255]]))
    coding = class_coding(classes=3, label_map={0: None, 1: 0, 2: 1, 3: 2}, ignore_index=255).coding
    assert coding.decode(tensor([[0, 1, 2, 3, 255]]))[0].tolist() == [255, 0, 1, 2, 255]
    coding = class_coding(classes=["sky", "car"], label_map={7: "car", 8: "car", 9: "sky"}).coding
    assert coding.decode(tensor([[7, 8, 9]]))[0].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"classes": ["sky"] * 2}, "'sky' twice"),
        ({"classes": 1}, "at least two"),
        ({"classes": 2.5}, "must be a number, names or a file"),
        ({"classes": []}, "names no class"),
        ({"classes": ["sky", "road"], "label_map": {3: "raod"}}, "Did you mean road"),
        ({"label_map": {3: "road"}}, "Pass classes="),
        ({"label_map": {3: None}}, "pass ignore_index=255"),
        ({"label_map": {"road": 1}}, "masks hold numbers"),
        ({"classes": 2, "label_map": {3: 2}}, "label_map makes 2 of 3; classes are 0..1"),
        ({"label_map": [1]}, "must map"),
        ({"label_map": {1.5: 1}}, "no value and no name"),
        ({"label_map": {1: 1.5}}, "must be a class"),
        ({"label_map": {1: 0, "1": 1}}, "has 1 twice"),
        ({"ignore_index": "255"}, "ignore_index must be an integer"),
        ({"palette": {"a": SKY, "b": SKY}}, "twice"),
        ({"palette": []}, "has no colour"),
        ({"palette": {"a": (1, 2)}}, "must be \\(red, green, blue\\)"),
        ({"palette": {"a": "#12345"}}, "must be \"#rrggbb\""),
        ({"palette": {"a": (1, 2, 256)}}, "between 0 and 255"),
        ({"palette": {"sky": SKY}, "label_map": {"skx": None}}, "Did you mean sky"),
        ({"palette": [SKY, ROAD, VOID], "classes": 2}, "a colour for class 2.*ignore_index=2"),
        ({"palette": {"sky": SKY, "void": VOID}, "classes": ["sky", "road"]}, "'void': None"),
        ({"palette": [SKY, ROAD], "label_map": {0: 1}}, "says nothing of the colour 1"),
        ({"palette": [{"name": "sky"}]}, "needs a name and a color"),
        ({"palette": [{"name": "sky", "color": SKY}, 5]}, "needs a name and a color"),
        (
            {"palette": {"sky": SKY, "x": VOID}, "label_map": {"x": "sky"}, "classes": 3},
            "classes=3, and the palette with its label_map has 1: sky",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_that_do_not_go_together(given, words):
    with pytest.raises((ArgumentError, DataError), match=words):
        class_coding(**given)


def test_palettes_with_names_void_and_merged_classes():
    palette = {"sky": SKY, "void": VOID, "road": ROAD, "path": (1, 2, 3)}
    row = torch.tensor([SKY, VOID, ROAD, (1, 2, 3)], dtype=torch.uint8).T[:, None]

    def coded(**given):
        known = class_coding(palette=palette, **given)
        return known.names, known.coding.decode(row)[0].tolist(), known.colors

    assert coded()[:2] == (("sky", "void", "road", "path"), [0, 1, 2, 3])
    names, found, colors = coded(label_map={"void": None, "path": "road"}, ignore_index=255)
    assert (names, found, colors) == (("sky", "road"), [0, 255, 1, 1], (SKY, ROAD))
    names, found, _ = coded(
        classes=["road", "sky", "path"], label_map={"void": None}, ignore_index=255
    )
    assert (names, found) == (("road", "sky", "path"), [1, 255, 0, 2])
    names, found, _ = coded(label_map={"void": None, 2: 1, 3: 1}, ignore_index=9)
    assert found == [0, 9, 1, 1]
    assert coded(ignore_index=3)[:2] == (("sky", "void", "road"), [0, 1, 2, 3])
    assert coded(classes=6)[0] is None  # two of which have no name
    transparent = torch.cat([row, torch.full((1, 1, 4), 7, dtype=torch.uint8)])
    known = class_coding(palette=palette)
    assert known.coding.decode(transparent)[0].tolist() == [0, 1, 2, 3]
    with pytest.raises(
        DataError, match=r"4 pixels of 1 colour that the palette lacks: \(5, 5, 5\)"
    ):
        known.coding.decode(torch.full((3, 2, 2), 5, dtype=torch.uint8))
    many = torch.from_numpy(picture(1)).permute(2, 0, 1)
    with pytest.raises(DataError, match="So many colours come from resizing or JPEG"):
        known.coding.decode(many)
    with pytest.raises(DataError, match="8 bit RGB"):
        known.coding.decode(torch.zeros(3, 2, 2, dtype=torch.uint16))


def test_two_bands_that_are_no_grey_and_alpha(tmp_path):
    two = np.stack([labels(), labels(1)])
    tifffile.imwrite(tmp_path / "m.tif", two, photometric="minisblack", planarconfig="separate")
    with pytest.raises(DataError, match="the mask has 2 bands"):
        read_classes(tmp_path / "m.tif", MaskCoding(3))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "tif"])
def test_bands_that_are_all_the_same_are_grey(tmp_path, mode):
    image = Image.fromarray(labels())
    path = tmp_path / ("m.tif" if mode == "tif" else "m.png")
    (image if mode == "tif" else image.convert(mode)).save(path)
    assert np.array_equal(read_classes(path, MaskCoding(3)).numpy(), labels())


def test_masks_of_16_bits_and_of_1(tmp_path):
    deep = labels().astype(np.uint16) * 300
    save(tmp_path / "m.png", deep)
    coding = class_coding(label_map={0: 0, 300: 1, 600: 2}).coding
    assert np.array_equal(read_classes(tmp_path / "m.png", coding).numpy(), labels())


@pytest.mark.parametrize(
    ("name", "options"),
    [("m.jpg", {}), ("m.png", {"format": "JPEG"}), ("m.webp", {}), ("m.tif", {"compression": "jpeg"})],
    ids=["jpg", "jpeg named png", "webp", "tiff"],
)  # fmt: skip
def test_formats_that_lose_numbers_are_refused(tmp_path, name, options):
    save(tmp_path / name, labels() * 100, **options)
    with pytest.raises(DataError, match="does not keep numbers exactly"):
        read_classes(tmp_path / name, MaskCoding(3))
    save(tmp_path / "lossless.webp", np.dstack([labels()] * 3), lossless=True)
    assert np.array_equal(read_classes(tmp_path / "lossless.webp", MaskCoding(3)).numpy(), labels())


def extended_webp(path):
    """Lossy pixels behind an extended header and a profile, as editors write them."""
    plain = io.BytesIO()
    Image.fromarray(np.dstack([labels() * 100] * 3)).save(plain, "webp")
    chunk = plain.getvalue()[12:]
    height, width = labels().shape
    header = b"VP8X\x0a\0\0\0" + bytes([0x20, 0, 0, 0, width - 1, 0, 0, height - 1, 0, 0])
    body = b"WEBP" + header + b"ICCP\x02\0\0\0xx" + chunk
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def tiff_of_many_bands(path):
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="jpeg")


@pytest.mark.parametrize(
    ("name", "write", "kind"),
    [
        ("m.webp", extended_webp, "lossy WebP"),
        ("m.tif", tiff_of_many_bands, "JPEG compressed TIFF"),
        (
            "m.jp2",
            lambda path: save(path, labels(), irreversible=True, quality_layers=[10]),
            "lossy JPEG 2000",
        ),
        ("m.avif", lambda path: save(path, np.dstack([labels()] * 3)), "AVIF or HEIC"),
    ],
    ids=["extended webp", "tifffile's jpeg", "jpeg 2000", "avif"],
)
def test_lossy_formats_are_known_by_what_they_hold(tmp_path, name, write, kind):
    write(tmp_path / name)
    assert lossy_format(tmp_path / name) == kind
    assert lossy_bytes((tmp_path / name).read_bytes()) == kind
    for read in (lambda path: read_classes(path, MaskCoding(3)), read_mask):
        with pytest.raises(DataError, match=f"is a {kind} file, which does not keep numbers"):
            read(tmp_path / name)


def test_jpeg_2000_without_loss_is_taken(tmp_path):
    save(tmp_path / "m.jp2", labels(), irreversible=False)
    assert np.array_equal(read_classes(tmp_path / "m.jp2", MaskCoding(3)).numpy(), labels())


def test_a_mask_of_three_equal_bands_is_one(tmp_path):
    save(tmp_path / "m.png", np.dstack([labels()] * 3))
    assert np.array_equal(read_mask(tmp_path / "m.png").numpy(), labels())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_mask(tmp_path):
    os.mkfifo(tmp_path / "m.png")
    with pytest.raises(InputError, match="no ordinary file"):
        read_classes(tmp_path / "m.png", MaskCoding(3))
    assert orientation(tmp_path / "m.png") == 1
    with pytest.raises(DataError, match="no ordinary file"):
        read_class_names(tmp_path / "m.png")


def test_pictures_as_masks_are_refused(tmp_path):
    save(tmp_path / "m.png", picture()[:, :8])
    with pytest.raises(
        DataError,
        match=r"RGB, 96 colours: \(\d+, .*, \.\.\.; a mask holds class numbers. Pass palet",
    ):
        read_classes(tmp_path / "m.png", MaskCoding(3))
    with pytest.raises(DataError, match="no whole numbers"):
        MaskCoding(3).decode(torch.full((1, 2, 2), 0.5))
    with pytest.raises(DataError, match="5 bands"):
        MaskCoding(3).decode(
            torch.zeros(5, 2, 2, dtype=torch.uint8) + torch.arange(5)[:, None, None].byte()
        )


@pytest.mark.parametrize(
    ("values", "given", "words"),
    [
        ([0, 255], {}, r"values 0, 255. Pass label_map=\{255: 1\} if 255 is the class 1"),
        ([0, 1, 2, 255], {}, "Pass ignore_index=255 if 255 is void"),
        ([*range(150), 255], {}, "Pass ignore_index=255 if 255 is void"),
        ([0, 38, 75], {}, r"label_map=\{0: 0, 38: 1, 75: 2\} to number them"),
        ([0], {}, "value 0 only"),
        ([7], {"ignore_index": 7}, "every pixel is void"),
    ],
    ids=str,
)
def test_classes_that_the_masks_do_not_tell(tmp_path, values, given, words):
    images, masks = make_pairs(tmp_path, "abc")
    for path in masks.iterdir():
        save(
            path, np.array(values, dtype=np.uint8)[np.arange(12 * 16) % len(values)].reshape(12, 16)
        )
    with pytest.raises(DataError, match=words):
        segzoo.open_data(images, masks, **given)


@pytest.mark.parametrize(
    ("values", "given", "classes"),
    [
        ([0, 1], {}, 2),
        ([0, 1, 3], {}, 4),
        ([0, 1, 255], {"ignore_index": 255}, 2),
        ([0, 255], {"label_map": {255: 1}}, 2),
        ([1, 2], {}, 3),
    ],
    ids=str,
)
def test_classes_are_counted(tmp_path, values, given, classes):
    images, masks = make_pairs(tmp_path, "abc")
    for path in masks.iterdir():
        save(
            path, np.array(values, dtype=np.uint8)[np.arange(12 * 16) % len(values)].reshape(12, 16)
        )
    assert segzoo.open_data(images, masks, **given).classes == classes
