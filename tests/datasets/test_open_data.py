"""Folders, tables and splits: which files are a pair, and what is known of them."""

from __future__ import annotations

import json
import pickle
import unicodedata

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import segzoo
from segzoo.data.pairs import find_pairs
from segzoo.data.pictures import find_pictures
from segzoo.errors import ArgumentError, DataError, InputError

from ..helpers import close_folder
from .making import SIZE, labels, make_pairs, picture, save


def test_two_folders(tmp_path):
    data = segzoo.open_data(*make_pairs(tmp_path))
    assert (data.classes, data.in_channels, len(data.train), len(data.val)) == (3, 3, 5, 1)
    assert data.test is None
    assert not set(data.train.names) & set(data.val.names)
    for part in (data.train, data.val):
        for index, name in enumerate(part.names):
            image, mask = part[index]
            seed = "abcdef".index(name)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), picture(seed))
            assert mask.dtype == torch.int64
            assert np.array_equal(mask.numpy(), labels(seed))


def test_subfolders_endings_case_and_unicode(tmp_path):
    accent = "caf\u00e9"
    for seed, (image, mask) in enumerate(
        [
            ("one/x.jpg", "one/x.png"),
            ("two/x.png", "two/x.tif"),
            ("IMG_1.JPG", "img_1.png"),
            (f"{unicodedata.normalize('NFD', accent)}.png", f"{accent}.png"),
        ]
    ):
        save(tmp_path / "i" / image, picture(seed))
        save(tmp_path / "m" / mask, labels(seed))
    save(tmp_path / "i" / ".hidden.png", picture())
    pairs = find_pairs(tmp_path / "i", tmp_path / "m").pairs
    assert [pair.name for pair in pairs] == ["IMG_1", accent, "one/x", "two/x"]
    assert [pair.mask.name for pair in pairs] == ["img_1.png", f"{accent}.png", "x.png", "x.tif"]


@pytest.mark.parametrize("name", ["data", "images", "masks", "sub"])
def test_no_folder_is_passed_over_that_cannot_be_read(tmp_path, monkeypatch, name):
    root = tmp_path / "data"
    make_pairs(root)
    for folder in (root / "images", root / "masks"):
        (folder / "sub").mkdir()
    close_folder(monkeypatch, name)
    with pytest.raises(DataError, match=rf"{name} cannot be read: Permission denied\. Allow"):
        segzoo.open_data(root)
    place = {"data": root, "sub": root / "images" / "sub"}.get(name, root / name)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        find_pictures([place])


def test_a_suffix_in_another_folder_and_in_the_same(tmp_path):
    images, masks = make_pairs(tmp_path, "abc", suffix="_mask")
    assert len(find_pairs(images, masks, mask_suffix="_mask").pairs) == 3
    for path in masks.iterdir():
        path.rename(images / path.name)
    pairs = find_pairs(images, images, mask_suffix="_mask").pairs
    assert (pairs[0].name, pairs[0].mask.name) == ("a", "a_mask.png")
    assert len(pairs) == 3


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "masks" / "d.png").unlink(), "1 of 6 images has no mask, the first d.png."),
        (
            lambda root: [p.rename(p.with_name(f"{p.stem}_gt.png")) for p in (root / "masks").iterdir()],
            "6 of 6 images have no mask, the first a.png. Masks end in '_gt': pass mask_suffix='_gt'.",
        ),
        (
            lambda root: [p.rename(p.with_name(f"gt_{p.stem}.png")) for p in (root / "masks").iterdir()],
            "Masks begin with 'gt_'",
        ),
        (lambda root: [p.unlink() for p in (root / "images").iterdir()], "There are no pictures in"),
        (lambda root: [p.unlink() for p in (root / "masks").iterdir()], "There are no masks in"),
        (lambda root: save(root / "images" / "a.jpg", picture()), "Two files of one name"),
        (lambda root: save(root / "masks" / "b.tif", labels()), "Two files of one name"),
        (
            lambda root: [save(root / "images" / "A.png", picture()), (root / "masks" / "e.png").unlink(), (root / "images" / "e.png").unlink()],
            "differ in upper and lower case only",
        ),
        (
            lambda root: [p.rename(p.with_suffix(".xyz")) for p in (root / "images").iterdir()],
            "left out: .xyz (6)",
        ),
    ],
    ids=["one", "suffix", "prefix", "no images", "no masks", "two images", "two masks", "case", "endings"],
)  # fmt: skip
def test_what_is_no_pair_is_said(tmp_path, spoil, words):
    images, masks = make_pairs(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError) as caught:
        segzoo.open_data(images, masks)
    assert words in str(caught.value)


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    images, masks = make_pairs(tmp_path, "ab")
    (images / "again").symlink_to(images)
    assert len(find_pairs(images, masks).pairs) == 2


@pytest.mark.parametrize("layout", ["images/{split}", "{split}/images"])
def test_splits_of_subfolders(tmp_path, layout):
    for split, names in {"train": "abc", "valid": "de", "Test": "f"}.items():
        for seed, name in enumerate(names):
            folder = layout.format(split=split)
            save(tmp_path / folder / f"{name}.png", picture(seed))
            save(tmp_path / folder.replace("images", "masks") / f"{name}.png", labels(seed))
    data = segzoo.open_data(tmp_path)
    assert [data.train.names, data.val.names, data.test.names] == [
        tuple("abc"),
        tuple("de"),
        ("f",),
    ]
    if layout.startswith("images"):
        again = segzoo.open_data(tmp_path / "images", tmp_path / "masks")
        assert again.description["fingerprint"] == data.description["fingerprint"]
    with pytest.raises(ArgumentError, match="have a split val already"):
        segzoo.open_data(tmp_path, val=0.5)
    with pytest.raises(ArgumentError, match="split already"):
        segzoo.open_data(tmp_path, group="^.")


def test_a_table(tmp_path):
    make_pairs(tmp_path)
    rows = ["Image, mask ,split,group"]
    rows += [f"images/{n}.png,masks/{n}.png,{'val' if n in 'ab' else 'train'}," for n in "abcdef"]
    (tmp_path / "data.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    data = segzoo.open_data(tmp_path / "data.csv")
    assert data.val.names == ("images/a", "images/b")
    assert len(data.train) == 4


def test_the_groups_of_a_table_stay_together(tmp_path):
    make_pairs(tmp_path)
    rows = [f"images/{n}.png,masks/{n}.png,{'first' if n in 'abc' else 'second'}" for n in "abcdef"]
    (tmp_path / "data.csv").write_text("image,mask,group\n" + "\n".join(rows))
    for seed in range(4):
        data = segzoo.open_data(tmp_path / "data.csv", val=0.5, seed=seed)
        assert {name[-1] for name in data.val.names} in ({*"abc"}, {*"def"})


def test_columns_that_are_not_used_are_told(tmp_path):
    make_pairs(tmp_path)
    rows = [f"{n},images/{n}.png,masks/{n}.png,7,{'test' if n in 'ab' else ''}," for n in "abcdef"]
    heading = ",image,mask,image_id,split,"
    (tmp_path / "data.csv").write_text("\n".join([heading, *rows]))
    data = segzoo.open_data(tmp_path / "data.csv", classes=3)
    assert data.test.names == ("images/a", "images/b")
    (note,) = data.description["notes"]
    assert note.startswith("3 columns are not used of ")
    assert note.endswith("data.csv: one without a name, image_id, one without a name.")
    assert note in segzoo.check_data(data).warnings


@pytest.mark.parametrize("delimiter", [";", "\t"], ids=["semicolon", "tab"])
def test_tables_of_other_countries(tmp_path, delimiter):
    make_pairs(tmp_path, "ab")
    rows = [["mask", "image"], *([f"masks/{n}.png", f"images/{n}.png"] for n in "ab")]
    (tmp_path / "data.csv").write_text("\r\n".join(map(delimiter.join, rows)))
    assert len(segzoo.open_data(tmp_path / "data.csv", val=0.5).train) == 1


def test_folders_that_are_not_there(tmp_path):
    images, masks = make_pairs(tmp_path, "ab")
    with pytest.raises(DataError, match=r"There is no folder .*imges. Did you mean images"):
        segzoo.open_data(tmp_path / "imges", masks)
    with pytest.raises(DataError, match="There is no folder"):
        segzoo.open_data(images, tmp_path / "no" / "where")
    with pytest.raises(DataError, match="neither images/ and masks/ nor train/"):
        segzoo.open_data(images)
    with pytest.raises(DataError, match=r"is a file. Give the folder"):
        segzoo.open_data(images / "a.png")
    with pytest.raises(DataError, match="cannot hold both"):
        segzoo.open_data(images, images)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("picture,mask\na,b", "has no column 'image'"),
        ("image,mask\n", "has no pair"),
        ("image,mask\nimages/a.png,masks/zz.png", "line 2: there is no file"),
        ("image,mask\nimages/a.png,", "line 2 names no mask"),
        ("image,mask\nimages/a.png,masks/a.png\nimages/a.png,masks/a.png", "there twice"),
        ("image,mask,split\nimages/a.png,masks/a.png,trian", "Did you mean train"),
        ("image,mask,split\nimages/a.png,masks/a.png,val", "no pair to train on"),
        ("image,mask,spilt\nimages/a.png,masks/a.png,val", "a column 'spilt'. Did you mean split?"),
        ("image,mask,groups\nimages/a.png,masks/a.png,x", "Did you mean group?"),
        ("image,mask,mask\nimages/a.png,masks/a.png,x", "the column 'mask' twice"),
        ("image,mask\nimages/a.png,masks/a.png,test", "line 2: 'test' is in no column"),
    ],
    ids=[
        *("column", "empty", "file", "cell", "twice", "split", "train"),
        *("misspelt", "plural", "columns", "unnamed"),
    ],
)
def test_a_table_that_is_wrong(tmp_path, text, words):
    make_pairs(tmp_path)
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        segzoo.open_data(tmp_path / "data.csv")
    assert words in str(caught.value)


def test_the_description_is_json_and_its_fingerprint_tells_changes(tmp_path):
    images, masks = make_pairs(tmp_path / "one")
    first = segzoo.open_data(images, masks).description
    assert json.loads(json.dumps(first))["val"] == list(segzoo.open_data(images, masks).val.names)
    assert first["counts"] == {"train": 5, "val": 1}
    prints = {first["fingerprint"]}

    def changed(**options):
        found = segzoo.open_data(images, masks, **options).description["fingerprint"]
        assert found not in prints
        prints.add(found)

    assert segzoo.open_data(images, masks).description["fingerprint"] in prints
    assert (
        segzoo.open_data(*make_pairs(tmp_path / "two")).description["fingerprint"] in prints
    )  # a copy elsewhere
    changed(seed=3)
    changed(ignore_index=2)
    changed(classes=5)
    changed(classes=["x", "y", "z"])
    changed(bands=(1,))
    mask = labels(0)
    mask[5, 5] = (mask[5, 5] + 1) % 3
    save(masks / "a.png", mask)
    changed()


def test_a_dataset_crosses_to_workers(tmp_path):
    data = segzoo.open_data(*make_pairs(tmp_path))
    again = pickle.loads(pickle.dumps(data))
    assert again.train.names == data.train.names
    loader = DataLoader(data.train, batch_size=5, num_workers=1, collate_fn=segzoo.collate)
    images, masks = next(iter(loader))
    assert images.shape == (5, 3, *SIZE)
    assert torch.equal(masks[2], data.train[2][1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"val": 1j}, "val must be a share"),
        ({"group": 5}, "must be a regular expression"),
        ({"group": "a{99999999999}"}, "is no regular expression"),
        ({"mask_suffix": None}, "mask_suffix must be a string"),
    ],
    ids=str,
)
def test_arguments_of_another_kind(tmp_path, given, words):
    with pytest.raises(ArgumentError, match=words):
        segzoo.open_data(*make_pairs(tmp_path, "ab"), classes=3, **given)


class Items:
    """Somebody's own dataset."""

    def __init__(self, count: int, classes: int = 3) -> None:
        self.count, self.classes = count, classes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        image = torch.from_numpy(picture(index)).permute(2, 0, 1)
        return image, torch.from_numpy(labels(index, self.classes)).long()


def test_datasets_of_ones_own():
    data = segzoo.DataSplits.of(Items(10), classes=["a", "b", "c"])
    assert (len(data.train), len(data.val), data.classes) == (8, 2, 3)
    assert data.class_names == ("a", "b", "c")
    assert segzoo.DataSplits.of(Items(3), Items(2)).classes == 3
    same = segzoo.DataSplits.of(Items(10), classes=["a", "b", "c"])
    assert same.description == data.description
    assert segzoo.DataSplits.of(Items(11), classes=3).description != data.description
    json.dumps(data.description)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (Items(0), "has no items"),
        (7, "must have a length"),
        (None, "must have a length"),
        ([(torch.zeros(3, 4, 4), torch.zeros(4, 5).long())] * 3, "of the same height"),
        ([(torch.zeros(3, 4, 4), torch.zeros(4, 4))] * 3, "expected integers"),
        ([torch.zeros(3, 4, 4)] * 3, "must be \\(image, mask\\)"),
    ],
    ids=["empty", "number", "none", "sizes", "floats", "no mask"],
)
def test_what_is_no_dataset(train, words):
    with pytest.raises(DataError, match=words):
        segzoo.DataSplits.of(train, classes=2)
