"""The checks: each finding, its level and its remedy; nothing is found in good data."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.data.contact_sheet import draw_samples
from segzoo.errors import ArgumentError, DataError, StorageError

from .making import SIZE, labels, make_pairs, picture, save

#: An EXIF orientation: a quarter turn.
TURNED = Image.Exif()
TURNED[0x0112] = 6


def checked(root, **given):
    given = {"val": ["a", "b"], "classes": 3} | given
    return segzoo.check_data(segzoo.open_data(root / "images", root / "masks", **given))


def test_good_data_have_no_findings_and_are_described(tmp_path):
    make_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    report = checked(tmp_path, classes=None, ignore_index=1)
    assert report.findings == ()
    report.raise_errors()
    assert report.pairs == {"train": 4, "val": 2}
    assert report.sizes == (SIZE,) * 3
    assert report.kinds == {"uint8": 6}
    pixels = np.bincount(np.concatenate([labels(s).ravel() for s in range(2, 6)]), minlength=3)
    assert report.shares["train"] == pytest.approx(
        [pixels[0] / pixels.sum(), 0, pixels[2] / pixels.sum(), pixels[1] / pixels.sum()]
    )
    json.dumps(report.to_json())
    text = str(report)
    assert "pairs     4 in train, 2 in val" in text
    assert "pixels    12x16\npictures  3 bands, uint8" in text
    assert [line.split()[:2] for line in text.splitlines()[-4:]] == [
        ["0", "sky"], ["1", "road"], ["2", "car"], ["void", *text.splitlines()[-1].split()[1:2]]
    ]  # fmt: skip


def spoil_all(folder, change):
    for path in folder.iterdir():
        with Image.open(path) as image:
            values = np.array(image)
        path.unlink()
        save(path, change(values))


ERRORS = {
    "size": (
        lambda root: save(root / "masks" / "b.png", labels(size=(16, 12))),
        "b: the image has 12x16 pixels, its mask 16x12 (height x width). Both must show",
    ),
    "values": (
        lambda root: spoil_all(root / "masks", lambda values: values + 1),
        "6 of 6 pairs, the first c: values that are no class: 3, classes are 0..2. Pass "
        "ignore_index=3 if that is void, or classes=4.",
    ),
    "several values": (
        lambda root: [save(root / "masks" / f"{n}.png", labels(v) + v) for v, n in enumerate("abcd")],
        "3 of 6 pairs, the first c: values that are no class: 3, 4, classes are 0..2. Pass classes=6",
    ),
    "coloured": (
        lambda root: save(root / "masks" / "e.png", picture()),
        "e: RGB, 192 colours: (",
    ),
    "jpeg": (
        lambda root: [
            save(root / "masks" / "e.jpg", labels()), (root / "masks" / "e.png").unlink()
        ],
        "e: the mask is a JPEG file, which does not keep numbers exactly. Save masks as PNG",
    ),
    "damaged": (
        lambda root: (root / "images" / "f.png").write_bytes(b"no picture"),
        "f.png",
    ),
    "void": (
        lambda root: spoil_all(root / "masks", lambda values: values * 0 + 255),
        "Every pixel of train is void. Is ignore_index right?",
    ),
    "one class": (
        lambda root: spoil_all(root / "masks", lambda values: values * 0 + 1),
        "Every labelled pixel of train is class 1: there is nothing to learn.",
    ),
    "leak": (
        lambda root: save(root / "images" / "d.png", picture(0)),
        "1 picture is in two splits, the first d in train as a in val",
    ),
    "bands": (
        lambda root: save(root / "images" / "d.png", picture()[..., :2].copy()),
        None,
    ),
    "kinds": (
        lambda root: save(root / "images" / "d.png", picture()[..., 0].astype(np.uint16) * 256),
        "different kinds of values (5 uint8, 1 uint16; d has uint16)",
    ),
    "turned": (
        lambda root: save(root / "images" / "d.png", picture(9), exif=TURNED),
        "d: the image has 16x12 pixels, its mask 12x16 (height x width): EXIF data turns the one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ERRORS)
def test_errors(tmp_path, kind):
    spoil, message = ERRORS[kind]
    make_pairs(tmp_path)
    spoil(tmp_path)
    report = checked(tmp_path, ignore_index=255)
    if message is None:  # grey and alpha among colours are brought to three bands
        assert not report.errors
        return
    assert any(message in error for error in report.errors), report.findings
    with pytest.raises(DataError) as caught:
        report.raise_errors()
    assert message in str(caught.value)


WARNINGS = {
    "missing in train": (
        lambda root: [save(root / "masks" / f"{n}.png", labels(s, 2)) for s, n in enumerate("cdef")],
        "1 class has no pixel in train: class 2. A model never learns it, and is scored on it all",
    ),
    "missing everywhere": (
        lambda root: [save(root / "masks" / f"{n}.png", labels(s, 2)) for s, n in enumerate("abcdef")],
        "1 class has no pixel in train: class 2. A model never learns it. Label some, or leave it",
    ),
    "missing in val": (
        lambda root: [save(root / "masks" / f"{n}.png", labels() * 0 + 1) for n in "ab"],
        "2 classes have no pixel in val: class 0, class 2. Scores say nothing of them. Another seed=,",
    ),
    "one void": (
        lambda root: save(root / "masks" / "d.png", labels() * 0 + 255),
        "1 mask is all void in train, the first d.",
    ),
    "twice": (
        lambda root: save(root / "images" / "d.png", picture(4)),
        "1 picture is there twice, the first d as e in train.",
    ),
    "turned": (
        lambda root: [
            save(root / "images" / "d.png", picture(9), exif=TURNED),
            save(root / "masks" / "d.png", labels(size=(16, 12))),
        ],
        "1 pair is turned by EXIF data on one side only, the first d",
    ),
    "idle masks": (
        lambda root: save(root / "masks" / "x.png", labels()),
        "1 mask belongs to no picture and is not used, the first x.png.",
    ),
    "left out": (
        lambda root: [(root / "images" / f"{n}.heic").touch() for n in "uvw"],
        "Files that are no pictures were left out: .heic (3).",
    ),
    "12 bit": (
        lambda root: [
            save(root / "images" / f"{n}.png", picture(s)[..., 0].astype(np.uint16) * 16)
            for s, n in enumerate("abcdef")
        ],
        "16 bits, of which 12 are used (up to 4080): to a model they are nearly black. Pass "
        "value_range=(0, 4095).",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WARNINGS)
def test_warnings(tmp_path, kind):
    spoil, message = WARNINGS[kind]
    make_pairs(tmp_path)
    spoil(tmp_path)
    report = checked(tmp_path, ignore_index=255)
    assert any(message in warning for warning in report.warnings), report.findings
    assert not report.errors
    assert f"warning: {report.warnings[0]}" in str(report)


def test_frames_of_several_videos(tmp_path):
    names = [f"{video}/frame_{number:03}" for video in "xy" for number in range(6)]
    images, masks = make_pairs(tmp_path, names)

    def warnings(**given):
        return segzoo.check_data(segzoo.open_data(images, masks, classes=3, **given)).warnings

    (found,) = warnings()
    assert "2 series (x/frame_..., y/frame_...)" in found
    group = found.partition("group='")[2].partition("'")[0]
    data = segzoo.open_data(images, masks, classes=3, group=group)
    assert {name[0] for name in data.val.names} in ({"x"}, {"y"})
    assert warnings(group=group) == ()


class Broken:
    """Somebody's own dataset with one wrong item."""

    def __init__(self, change):
        self.change = change

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(index))
        mask = torch.arange(30).view(5, 6) % 3
        return self.change(image, mask) if index == 2 else (image, mask)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image, mask: (image, mask + 1), "2: values that are no class: 3, classes are 0..2"),
        (lambda image, mask: (image, mask - 1), "2: values that are no class: -1"),
        (lambda image, mask: (image / 0, mask), "not finite"),
        (lambda image, mask: (image * 300, mask), "from .* to 2.*; a model's normalization is made for 0"),
        (lambda image, mask: (image.short(), mask), "different kinds"),
        (lambda image, mask: (image[:1], mask), "2: 1 band instead of 2"),
        (lambda image, mask: (image[:, :3], mask), "2: the image has 3x6 pixels, its mask 5x6"),
    ],
    ids=["above", "below", "nan", "range", "kinds", "bands", "size"],
)  # fmt: skip
def test_datasets_of_ones_own(change, words):
    class Val(Broken):
        def __getitem__(self, index):
            image, mask = super().__getitem__(index)
            return image / 2, mask

    data = segzoo.DataSplits.of(Broken(change), Val(lambda *item: item), classes=3)
    report = segzoo.check_data(data)
    assert any(re.search(words, found.message) for found in report.findings), report.findings


def test_threads_do_not_change_the_report(tmp_path):
    make_pairs(tmp_path, "abcdefghijkl")
    data = segzoo.open_data(tmp_path, classes=4)
    one, many = (segzoo.check_data(data, workers=workers) for workers in (1, 4))
    assert one == many
    for workers in (0, "2"):
        with pytest.raises(ArgumentError, match="workers must be"):
            segzoo.check_data(data, workers=workers)


def test_a_sheet_of_samples(tmp_path):
    make_pairs(tmp_path, "abcdefghijklmnop")
    (tmp_path / "masks" / "h.png").write_bytes(b"damaged")
    data = segzoo.open_data(tmp_path, classes=["sky", "road", "a very " * 9 + "long name"])
    with Image.open(draw_samples(data, tmp_path / "sheet.png")) as sheet:
        assert sheet.width > 1000
        assert len(sheet.getcolors(2**24)) > 100
    coloured = segzoo.DataSplits.of(Broken(lambda *item: item), classes=3, ignore_index=2)
    draw_samples(coloured, tmp_path / "two.png", count=2)
    for broken in (1, -3):  # no class: it is hatched
        strange = Broken(lambda image, mask, broken=broken: (image, mask + broken))
        draw_samples(segzoo.DataSplits.of(strange, classes=3), tmp_path / "two.png", count=2)
    with pytest.raises(StorageError, match=r"There is no folder .* to write sheet.png to"):
        draw_samples(data, tmp_path / "no" / "sheet.png")
    assert not list(tmp_path.glob(".*.tmp"))
