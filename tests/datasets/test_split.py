"""Pictures kept apart: by shares, by names and by groups."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import segzoo
from segzoo.data.split import draw_share
from segzoo.errors import ArgumentError, DataError

from .making import labels, make_pairs, picture, save


@given(
    st.lists(st.integers(0, 30).map(str), min_size=2, max_size=200),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_a_share_keeps_groups_together_and_comes_near(groups, share, seed):
    if len(set(groups)) < 2:
        with pytest.raises(DataError, match="one group"):
            draw_share(groups, share, seed=seed)
        return
    places = draw_share(groups, share, seed=seed)
    inside = {groups[place] for place in places}
    outside = {group for place, group in enumerate(groups) if place not in places}
    assert inside
    assert outside
    assert not inside & outside
    largest = max(map(groups.count, groups))
    assert abs(len(places) - share * len(groups)) <= largest


@given(st.integers(5, 300), st.integers(0, 3))
def test_single_pictures_are_split_exactly_and_one_more_moves_few(count, seed):
    names = [f"{index:04}" for index in range(count)]
    before = {names[place] for place in draw_share(names, 0.2, seed=seed)}
    assert len(before) in (count // 5, count // 5 + 1)
    more = [*names, "one more"]
    after = {more[place] for place in draw_share(more, 0.2, seed=seed)}
    assert len(before ^ after) <= 3


def test_val_by_names_by_a_file_and_by_group(tmp_path):
    images, masks = make_pairs(tmp_path, ["a_1", "a_2", "b_1", "b_2", "b_3"])
    (tmp_path / "val.txt").write_text("b_1\na_2.png\n\n")
    for val in (["b_1", "a_2"], tmp_path / "val.txt"):
        assert segzoo.open_data(images, masks, val=val).val.names == ("a_2", "b_1")
    data = segzoo.open_data(images, masks, val=0.4, group="^([a-z])_")
    assert data.val.names == ("a_1", "a_2")
    data = segzoo.open_data(images, masks, val=0.2, test=0.2)
    names = [data.train.names, data.val.names, data.test.names]
    assert sorted(sum(names, ())) == ["a_1", "a_2", "b_1", "b_2", "b_3"]
    assert list(map(len, names)) == [3, 1, 1]
    with pytest.raises(DataError, match=r"names .b_9.*Did you mean b_"):
        segzoo.open_data(images, masks, val=["b_9"])
    with pytest.raises(DataError, match="some must be left"):
        segzoo.open_data(images, masks, val=["a_1", "a_2", "b_1", "b_2", "b_3"])
    with pytest.raises(ArgumentError, match="finds nothing in the name 'a_1'"):
        segzoo.open_data(images, masks, group="^b")
    with pytest.raises(ArgumentError, match="no regular expression"):
        segzoo.open_data(images, masks, group="(")


def test_shares_are_of_all_pictures(tmp_path):
    names = [f"{number:02}" for number in range(20)]
    images, masks = make_pairs(tmp_path, names)

    def opened(**given):
        data = segzoo.open_data(images, masks, classes=3, **given)
        parts = [() if part is None else part.names for part in (data.train, data.val, data.test)]
        assert sorted(sum(parts, ())) == names
        return parts

    _, alone, _ = opened(val=0.5)
    assert alone == tuple(names[place] for place in draw_share(names, 0.5, seed=0))
    assert list(map(len, opened(val=0.5, test=0.4))) == [2, 10, 8]
    assert list(map(len, opened(test=0.7))) == [2, 4, 14]
    for seed in range(5):  # what is named for the one is not drawn for the other
        _, val, test = opened(val=names[:5], test=0.2, seed=seed)
        assert (val, len(test)) == (tuple(names[:5]), 3)
    with pytest.raises(ArgumentError, match=r"test=0.8 and val=0.2 leave nothing to train on"):
        opened(test=0.8)


@pytest.mark.parametrize(
    ("names", "group", "words"),
    [
        (["a"], None, "There is one picture"),
        (["a_1", "a_2"], "^a", "There is one group of pictures"),
    ],
)
def test_too_few_to_split(tmp_path, names, group, words):
    with pytest.raises(DataError, match=words):
        segzoo.open_data(*make_pairs(tmp_path, names), group=group)


@pytest.mark.parametrize("files", ["NFC", "NFD"])
@pytest.mark.parametrize("told", ["NFC", "NFD"])
def test_an_accent_may_be_stored_in_two_ways(tmp_path, files, told):
    """What a Mac writes into a list is not what it is called on another system."""
    here, there = (
        [unicodedata.normalize(form, f"{word}_{number}") for word in ("caf\u00e9", "\u00fcber") for number in (1, 2)]
        for form in (files, told)
    )  # fmt: skip
    images, masks = make_pairs(tmp_path, here)
    expected = tuple(unicodedata.normalize("NFC", name) for name in here[:2])
    (tmp_path / "val.txt").write_text("\n".join([there[0], f"{there[1]}.png"]), encoding="utf-8")
    for val in (tmp_path / "val.txt", there[:2]):
        assert segzoo.open_data(images, masks, val=val, classes=3).val.names == expected
    group = unicodedata.normalize(told, "caf\u00e9|\u00fcber")
    data = segzoo.open_data(images, masks, val=0.5, group=group, classes=3)
    assert data.val.names in (
        expected,
        tuple(sorted({*data.train.names, *data.val.names} - {*expected})),
    )
    rows = [f"images/{name}.png,masks/{name}.png" for name in there]
    (tmp_path / "data.csv").write_text("\n".join(["image,mask", *rows]), encoding="utf-8")
    named = [f"images/{name}" for name in there[:2]]
    data = segzoo.open_data(tmp_path / "data.csv", val=named, classes=3)
    assert data.val.names == tuple(f"images/{name}" for name in expected)
    end = unicodedata.normalize(told, "_\u00e9")
    for seed, name in enumerate("ab"):
        save(tmp_path / "side" / f"{name}.png", picture(seed))
        save(tmp_path / "side" / unicodedata.normalize(files, f"{name}_\u00e9.png"), labels(seed))
    sides = segzoo.open_data(tmp_path / "side", tmp_path / "side", mask_suffix=end, val=["b"])
    assert sides.train.names == ("a",)
