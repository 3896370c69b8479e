"""Names of results: no two pictures share one, and little is remembered."""

import itertools

import pytest

from segzoo.errors import ArgumentError
from segzoo.folders.names import FolderNames, Names
from segzoo.folders.shards import Shard

#: Stems that clash in every way that there is, and some that do not.
PARTS = ("x", "X", "x_overlay", "x_2", "x_2_overlay", "x_overlay_2", "x_3", "y", "y_7", "ß", "SS")


def files(name):
    """What may be written for a name, as a file system without case sees it."""
    return {f"{name}.png".casefold(), f"{name}_overlay.png".casefold(), f"{name}.tif".casefold()}


@pytest.mark.parametrize("count", [2, 3])
def test_what_is_known_before_gives_the_same_names(count):
    for stems in itertools.product(PARTS, repeat=count):
        plain, known = Names(), FolderNames(stems, len(stems))
        names = [plain.take(stem) for stem in stems]
        assert [known.take(stem) for stem in stems] == names
        for one, other in itertools.combinations(names, 2):
            assert not files(one) & files(other), stems


def test_only_what_could_clash_is_remembered():
    stems = [f"frame_{i:06d}" for i in range(1000)]
    names = FolderNames(stems, len(stems))
    assert [names.take(stem) for stem in stems] == stems
    assert not names._taken


def test_many_pictures_of_one_name():
    names = Names()
    assert [names.take("x") for _ in range(3000)][-1] == "x_3000"


# ---- shards --------------------------------------------------------------------------------


def test_each_picture_is_in_one_shard_for_ever():
    paths = [f"a/{i}.png" for i in range(200)]
    owners = [[p for p in range(1, 17) if Shard(p, 16).holds(path)] for path in paths]
    assert all(len(owner) == 1 for owner in owners)
    # Written down: another machine or version must find the same.
    assert [owner[0] for owner in owners[:8]] == [7, 1, 3, 11, 13, 6, 9, 15]
    assert Shard(1, 1).holds("\udcff.png")


@pytest.mark.parametrize(("part", "parts"), [(4, 3), (0, 3), (-1, 3), (1, 0), (1.5, 3)])
def test_there_is_no_such_shard(part, parts):
    with pytest.raises(ArgumentError):
        Shard(part, parts)
