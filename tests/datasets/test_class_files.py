"""Files that say what classes are: palettes and names; and those that do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.data.class_coding import class_coding
from segzoo.data.classes import read_class_names, read_palette
from segzoo.data.mask_coding import MaskCoding
from segzoo.data.mask_file import read_classes
from segzoo.errors import ArgumentError, DataError

from .making import labels, make_pairs, save

SKY, ROAD, VOID = (128, 128, 128), (128, 64, 128), (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", json.dumps({"sky": SKY, "road": "#804080"})),
        ("p.json", json.dumps([{"Name": "sky", "color": SKY}, {"name": "road", "Color": ROAD}])),
        ("label_colors.txt", "128 128 128\t\tsky\n128 64 128\troad\n"),
        ("class_dict.csv", "name,r,g,b\nsky,128,128,128\nroad,128,64,128\n"),
        ("p.txt", "\ufeff128, 128, 128, sky\n\n128;64;128;road"),
    ],
    ids=["mapping", "list", "camvid", "table", "commas"],
)
def test_files_of_palettes(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    palette = read_palette(tmp_path / name)
    assert palette.names == ("sky", "road")
    assert palette.colors == (SKY, ROAD)


def test_a_picture_s_palette(tmp_path):
    image = Image.fromarray(labels())
    image.putpalette([*SKY, *ROAD, *VOID])
    image.save(tmp_path / "m.png")
    assert read_palette(tmp_path / "m.png").colors[:3] == (SKY, ROAD, VOID)
    known = class_coding(palette=tmp_path / "m.png", classes=2, ignore_index=2)
    rgb = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert np.array_equal(known.coding.decode(rgb).numpy(), labels())
    # A mask with a palette holds numbers; the colours are for people.
    assert np.array_equal(read_classes(tmp_path / "m.png", MaskCoding(3)).numpy(), labels())
    # With palette= its colours count, also when their order in the file is another one.
    turned = class_coding(palette=[ROAD, SKY, VOID]).coding
    found = read_classes(tmp_path / "m.png", turned).numpy()
    assert np.array_equal(found, np.array([1, 0, 2])[labels()])
    save(tmp_path / "g.png", labels())
    with pytest.raises(DataError, match="has no palette"):
        read_palette(tmp_path / "g.png")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.json", "{", "is no JSON"),
        ("p.txt", "1 2 3 a\nsky\n", "'sky' is not"),
        ("p.txt", "1 2 3 a\n4 5 6 a\n", "'a' twice"),
        ("p.txt", f"1 2 3 a{' ' * 2**18}b\n", "1 to 256 characters"),  # at once
        ("p.txt", f"a,1,2,3\nb,{'1' * 5000},2,3\n", "is no palette"),
        ("p.txt", f"a,1,2,3\n{'b' * 2**18},1,2,3\n", "is no palette"),
        ("missing.txt", None, "cannot be read"),
        ("p.txt", "", "is no palette"),
    ],
)
def test_files_that_are_no_palette(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises((DataError, ArgumentError), match=words):
        read_palette(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "sky\r\n  road\n\n"),
        ("c.json", '["sky", "road"]'),
        ("id2label.json", '{"1": "road", "0": "sky"}'),
        ("label2id.json", '{"road": 1, "sky": 0}'),
    ],
)
def test_files_of_names(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_class_names(tmp_path / name) == (2, ("sky", "road"))


@pytest.mark.parametrize(
    "text",
    [
        *('{"0": "sky", "2": "road"}', '{"sky": 0, "road": "1"}', "3", "{"),
        pytest.param(f'{{"{"1" * 5000}": "sky"}}', id="digits"),
    ],
)
def test_files_that_name_no_classes(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError):
        read_class_names(tmp_path / "c.json")


def test_names_beside_the_masks_are_found(tmp_path):
    images, masks = make_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert segzoo.open_data(images, masks).class_names == ("a", "b", "c")
    (masks / "classes.json").write_text('["x", "y", "z"]')
    assert segzoo.open_data(images, masks).class_names == ("x", "y", "z")
    assert segzoo.open_data(images, masks, classes=4).class_names is None
