"""Rows with pictures, as Hugging Face datasets have them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.data.open_pairs import open_pairs
from segzoo.data.rows import picture_values
from segzoo.errors import DataError, InputError

from .making import labels, make_pairs, picture, save


def rows(kind, tmp_path):
    for seed in range(5):
        image, mask = Image.fromarray(picture(seed)), Image.fromarray(labels(seed))
        mask.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
        if kind == "arrays":
            yield {"image": picture(seed), "annotation": labels(seed)}
        elif kind == "tensors":
            yield {
                "image": torch.from_numpy(picture(seed)).permute(2, 0, 1),
                "annotation": torch.from_numpy(labels(seed)).int(),
            }
        elif kind == "paths":
            yield {
                "image": save(tmp_path / f"{seed}.png", picture(seed)),
                "annotation": {"path": str(save(tmp_path / f"{seed}_m.png", labels(seed)))},
            }
        elif kind == "bytes":
            file = io.BytesIO()
            image.save(file, format="PNG")
            yield {"image": {"bytes": file.getvalue(), "path": None}, "annotation": mask}
        else:
            yield {"image": image, "annotation": mask}


@pytest.mark.parametrize("kind", ["pillow", "arrays", "tensors", "paths", "bytes"])
def test_all_kinds_of_pictures(kind, tmp_path):
    data = segzoo.RowsDataset(list(rows(kind, tmp_path)), classes=3)
    assert len(data) == 5
    for seed in range(5):
        image, mask = data[seed]
        assert np.array_equal(image.permute(1, 2, 0).numpy(), picture(seed))
        assert np.array_equal(mask.numpy(), labels(seed))
        assert mask.dtype == torch.int64
    splits = segzoo.DataSplits.of(data)
    assert (len(splits.train), len(splits.val), splits.in_channels) == (4, 1, 3)
    assert (splits.classes, splits.ignore_index) == (3, None)
    void = segzoo.RowsDataset(data.rows, classes=3, ignore_index=2)
    assert segzoo.DataSplits.of(void).ignore_index == 2
    assert not segzoo.check_data(splits).errors


def test_what_rows_say_of_their_classes_is_that_of_the_data():
    row = {"image": picture(), "annotation": labels() + (labels() == 2) * 253}
    given = {"classes": ["sky", "road"], "ignore_index": 255}
    rows = segzoo.RowsDataset([row] * 5, **given)
    data = segzoo.DataSplits.of(rows)
    assert (data.classes, data.class_names, data.ignore_index) == (2, ("sky", "road"), 255)
    again = segzoo.DataSplits.of(data.train)  # a part of them says the same
    assert (again.class_names, again.ignore_index) == (data.class_names, 255)
    assert segzoo.DataSplits.of(rows, classes=2).class_names == ("sky", "road")
    assert segzoo.DataSplits.of(rows, classes=["a", "b"]).class_names == ("a", "b")
    assert segzoo.DataSplits.of(rows, classes=3).class_names is None
    colors = {"sky": (0, 0, 9), "road": (9, 0, 0)}
    row["annotation"] = np.array([*colors.values()], np.uint8)[labels(0, 2)]
    data = segzoo.DataSplits.of(segzoo.RowsDataset([row] * 5, palette=colors))
    assert (data.class_names, data.palette) == (("sky", "road"), ((0, 0, 9), (9, 0, 0)))
    assert (
        segzoo.DataSplits.of(
            [(torch.zeros(3, 2, 2), torch.zeros(2, 2).long())] * 5, classes=2
        ).palette
        is None
    )


def test_what_files_say_of_their_classes_is_that_of_the_data(tmp_path):
    opened = segzoo.open_data(*make_pairs(tmp_path), classes=["a", "b", "c"], ignore_index=2)
    data = segzoo.DataSplits.of(opened.train, opened.val)
    assert (data.classes, data.class_names, data.ignore_index) == (3, ("a", "b", "c"), 2)
    assert open_pairs(tmp_path, classes=["a", "b", "c"]).class_names == ("a", "b", "c")


def test_modes_of_pillow(tmp_path):
    grey, bits = Image.fromarray(picture()[..., 0]), Image.fromarray(labels(0, 2) > 0)
    data = segzoo.RowsDataset([{"image": grey, "annotation": bits}], classes=2)
    image, mask = data[0]
    assert image.shape == (3, 12, 16)
    assert np.array_equal(mask.numpy(), labels(0, 2))
    deep = Image.fromarray(picture()[..., 0].astype(np.uint16) * 256)
    cmyk = Image.fromarray(picture()).convert("CMYK")
    for one, bands, dtype in [(deep, 1, torch.uint16), (cmyk, 3, torch.uint8)]:
        data = segzoo.RowsDataset([{"i": one, "m": bits}], image="i", mask="m", channels=None)
        assert (data[0][0].shape[0], data[0][0].dtype) == (bands, dtype)


def test_a_fourth_band_is_left_out_where_it_is_opacity(tmp_path):
    """Of an array nothing tells: it may as well be infrared."""
    four = np.dstack([picture(), labels()])
    path = save(tmp_path / "four.png", four)
    row = {"annotation": labels()}
    for value in (Image.fromarray(four), path, {"bytes": path.read_bytes()}):
        image, _ = segzoo.RowsDataset([{**row, "image": value}], classes=3)[0]
        assert np.array_equal(image.permute(1, 2, 0).numpy(), picture())
    with pytest.raises(DataError, match=r"row 0: 4 bands instead of 3.*Cut the rows' pictures"):
        segzoo.RowsDataset([{**row, "image": four}], classes=3)[0]


@pytest.mark.parametrize("kind", ["pillow", "bytes", "path"])
def test_masks_that_were_jpeg(kind, tmp_path):
    path = save(tmp_path / "m.jpg", labels())
    values = {"pillow": Image.open(path), "bytes": {"bytes": path.read_bytes()}, "path": path}
    with values["pillow"]:
        rows = segzoo.RowsDataset([{"image": picture(), "annotation": values[kind]}], classes=3)
        with pytest.raises(DataError, match="row 0: the mask is a JPEG file"):
            rows[0]


def test_what_is_no_row():
    row = {"image": picture(), "annotation": labels()}
    with pytest.raises(DataError, match=r"no column 'mask'.*columns are image, annotation"):
        segzoo.RowsDataset([row], mask="mask")
    with pytest.raises(InputError, match="is no picture"):
        segzoo.RowsDataset([{**row, "image": 7}])[0]
    with pytest.raises(DataError, match=r"row 0: the image has 12x16"):
        segzoo.RowsDataset([{**row, "annotation": labels().T}])[0]
    with pytest.raises(DataError, match="row 0: values that are no class: 2"):
        segzoo.RowsDataset([row], classes=2)[0]


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(bits, kind, width, row):
    """A PNG of one row, of a kind that Pillow does not write."""
    head = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_bytes_are_read_as_files_are():
    deep = png(16, 2, 1, struct.pack(">3H", 1, 300, 65535))
    assert picture_values({"bytes": deep}).flatten().tolist() == [1, 300, 65535]
    small = png(2, 0, 4, bytes([0b00011011]))  # classes of two bits
    assert picture_values({"bytes": bytearray(small)}, stored=True).flatten().tolist() == [
        0,
        1,
        2,
        3,
    ]
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 90)]
    file = io.BytesIO()
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    data = segzoo.RowsDataset(
        [{"image": {"bytes": file.getvalue()}, "annotation": None}], classes=2
    )
    with pytest.raises(InputError, match="row 0: The file holds 2 pictures"):
        data[0]


@pytest.mark.parametrize(
    "value",
    [np.zeros(4), np.zeros((1, 2, 3, 4)), torch.zeros(4), np.array([[None]]), {"bytes": "text"}],
    ids=lambda value: str(getattr(value, "shape", "text")),
)
def test_what_is_no_picture_is_told(value):
    with pytest.raises(InputError, match="picture"):
        picture_values(value)
